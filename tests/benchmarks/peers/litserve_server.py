"""Serves a SavedModel by LitServe; runs in that one's Python, see serving_load.

EXPORT=run/export/1 python litserve_server.py --port=8000
"""

import base64
import os
import sys

import litserve
import tensorflow as tf


class Classifier(litserve.LitAPI):
    def setup(self, device):
        model = tf.saved_model.load(os.environ["EXPORT"])
        self.function = model.signatures["serving_default"]

    def decode_request(self, request):
        return base64.b64decode(request["instances"][0]["b64"])

    def predict(self, images):
        outputs = self.function(image_bytes=tf.constant(images))
        return outputs["probabilities"].numpy().tolist()

    def encode_response(self, row):
        return {"predictions": [{"probabilities": row}]}


if __name__ == "__main__":
    server = litserve.LitServer(
        Classifier(max_batch_size=8, batch_timeout=0.01),
        accelerator="cpu",
        workers_per_device=2,
    )
    port = int(sys.argv[1].removeprefix("--port="))
    server.run(host="127.0.0.1", port=port, generate_client_file=False)
