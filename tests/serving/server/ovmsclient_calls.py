"""Asks a server as users of ovmsclient do; runs in the clients' Python."""

import sys

import ovmsclient

grpc_port, rest_port, name, *paths = sys.argv[1:]
images = []
for path in paths:
    with open(path, "rb") as file:
        images.append(file.read())
for make_client, port in (
    (ovmsclient.make_grpc_client, grpc_port),
    (ovmsclient.make_http_client, rest_port),
):
    client = make_client(f"127.0.0.1:{port}")
    # Its default, 0, is the latest to OpenVINO's server alone.
    answer = client.predict({"image_bytes": images}, name, model_version=1)
    scores = [round(float(score), 4) for score in answer["score"]]
    print(client.get_model_status(name, 1)[1]["state"], scores)
