"""Serves a SavedModel by mosec; runs in that one's Python, see serving_load.

EXPORT=run/export/1 python mosec_server.py --port=8000
"""

import base64
import os
import sys

import mosec
import tensorflow as tf


class Classifier(mosec.Worker):
    def __init__(self):
        model = tf.saved_model.load(os.environ["EXPORT"])
        self.function = model.signatures["serving_default"]

    def forward(self, data: list[dict]) -> list[dict]:
        images = [
            base64.b64decode(request["instances"][0]["b64"]) for request in data
        ]
        outputs = self.function(image_bytes=tf.constant(images))
        rows = outputs["probabilities"].numpy().tolist()
        return [{"predictions": [{"probabilities": row}]} for row in rows]


if __name__ == "__main__":
    sys.argv.append("--timeout=60000")  # by default 3 s, then it refuses
    server = mosec.Server()
    server.append_worker(Classifier, num=2, max_batch_size=8, max_wait_time=10)
    server.run()
