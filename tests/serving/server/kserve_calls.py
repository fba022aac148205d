"""Asks a server as users of KServe's client do; runs in that one's Python."""

import asyncio
import base64
import sys

import kserve

rest_port, name, *paths = sys.argv[1:]
instances = []
for path in paths:
    with open(path, "rb") as file:
        instances.append({"b64": base64.b64encode(file.read()).decode()})


async def ask():
    client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v1"))
    answer = await client.infer(
        f"http://127.0.0.1:{rest_port}", {"instances": instances}, name
    )
    print([round(row["score"], 4) for row in answer["predictions"]])


asyncio.run(ask())
