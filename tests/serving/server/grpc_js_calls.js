// Asks a server over gRPC from Node.js, by Google's client for it and the
// protos of TF Serving: `node grpc_js_calls.js DESCRIPTORS PORT MODEL FILE…`.
const fs = require("fs");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const [descriptors, port, name, ...paths] = process.argv.slice(2);
const definition = protoLoader.loadFileDescriptorSetFromBuffer(
  fs.readFileSync(descriptors),
  { keepCase: true },
);
const { PredictionService } =
  grpc.loadPackageDefinition(definition).tensorflow.serving;
const client = new PredictionService(
  `127.0.0.1:${port}`,
  grpc.credentials.createInsecure(),
);
const images = {
  dtype: "DT_STRING",
  tensor_shape: { dim: [{ size: paths.length }] },
  string_val: paths.map((path) => fs.readFileSync(path)),
};

function ask(name, next) {
  // In descriptors a map is a list of entries.
  const inputs = [{ key: "image_bytes", value: images }];
  const request = { model_spec: { name }, inputs };
  client.Predict(request, (error, answer) => {
    if (error) console.log(grpc.status[error.code], error.details);
    else {
      const { value } = answer.outputs.find(({ key }) => key === "score");
      const scores = value.float_val;
      console.log(`[${scores.map((score) => score.toFixed(1)).join(", ")}]`);
    }
    next();
  });
}

ask(name, () => ask("x", () => client.close()));
