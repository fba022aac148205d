"""Asks a server as users of min-tfs-client do; runs in the clients' Python."""

import sys

import grpc
import numpy as np
from min_tfs_client.requests import TensorServingClient
from min_tfs_client.tensors import tensor_proto_to_ndarray

client = TensorServingClient("127.0.0.1", int(sys.argv[1]))
inputs = {"x": np.array([[1.0, 4.0], [-2.0, 0.5]])}
answer = client.predict_request("inverse", inputs, model_version=1)
print(tensor_proto_to_ndarray(answer.outputs["y"]).tolist())
for name, wrong in (
    ("x", inputs),
    ("inverse", {"z": inputs["x"]}),
    ("inverse", {"x": np.array([[1, 2]], np.int32)}),
):
    try:
        client.predict_request(name, wrong)
    except grpc.RpcError as error:
        print(error.code().name, error.details())
