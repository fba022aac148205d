r"""Latency of one image: over gRPC and REST, against a direct call.

    python -m tests.benchmarks.serving_latency --export_dir=run/export scan.png

The direct call is the signature's concrete function in the same process, with
the image's bytes in and arrays out. The three take turns, so that whatever else
the machine does falls on all alike. `--export_dir=new` first makes an untrained
EfficientNetB0 at 224 px, which costs what a trained one costs.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags

from tests.benchmarks.ratios import tell

FLAGS = flags.FLAGS
flags.DEFINE_string("export_dir", "new", "Holds versions, or `new`.")
flags.DEFINE_integer("num_rounds", 150, "Calls of each kind.")


def export_untrained(directory: str) -> None:
    """Writes version 1 of an untrained model of two classes."""
    from tests.export.examples import make_detector
    from trainer.data import records
    from trainer.export import saved_model, serving_module, signature
    from trainer.model import classifier

    head = classifier.build_head(2, (128,), 0.3)
    model = classifier.build_classifier(224, 3, head)
    module = serving_module.ServingModule(
        [model],
        class_names=("no_tumor", "tumor"),
        positive_index=1,
        temperature=1.0,
        operating_point=0.5,
        detector=make_detector(model),
    )
    info = records.DatasetInfo(
        ("no_tumor", "tumor"), "tumor", 3, 224, {}, (), "", {}
    )
    assets = {signature.DATASET_ASSET: info.to_json().encode()}
    saved_model.export_version(
        module, directory, assets=assets, extra={}, facts={}
    )


def find_export_and_image(argv, scratch: str) -> tuple[str, bytes]:
    """Returns the directory of versions, and the image to ask with."""
    import numpy as np
    from PIL import Image

    directory = FLAGS.export_dir
    if directory == "new":
        directory = os.path.join(scratch, "export")
        export_untrained(directory)
    path = argv[1] if len(argv) > 1 else os.path.join(scratch, "image.jpg")
    if len(argv) < 2:
        noise = np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8)
        Image.fromarray(noise).resize((512, 512)).save(path)
    with open(path, "rb") as file:
        return directory, file.read()


def time_calls(calls: dict, num_rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each call, the kinds taking turns."""
    seconds = {name: [] for name in calls}
    for index in range(num_rounds + 10):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if index >= 10:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def main(argv):
    import numpy as np
    import tensorflow as tf

    from serving import client
    from trainer.export import versions

    scratch = tempfile.mkdtemp()
    directory, image = find_export_and_image(argv, scratch)
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "serving.local_server", "--port=0"),
            *(f"--model_base_path={directory}", "--model_name=m"),
            "--rest_api_port=0",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    words = server.stdout.readline().split()
    grpc_target, rest_target = words[2], words[4].rstrip(".")
    model = tf.saved_model.load(versions.find_newest(directory))
    function = model.signatures["serving_default"]

    def call_directly():
        outputs = function(image_bytes=tf.constant([image]))
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    over_grpc = client.Client(grpc_target, "m")
    over_rest = client.Client(rest_target, "m")
    seconds = time_calls(
        {
            "direct": call_directly,
            "gRPC": lambda: over_grpc.predict([image]),
            "REST": lambda: over_rest.predict([image]),
        },
        FLAGS.num_rounds,
    )
    server.terminate()
    server.wait()
    shutil.rmtree(scratch)
    direct = np.array(seconds.pop("direct"))
    for name, values in seconds.items():
        print(f"{name}: {1e3 * statistics.median(values):.2f} ms")
        middle = np.percentile(direct / np.array(values), [25, 50, 75])
        tell(f"An image over {name}", "the model called in Python", middle)


if __name__ == "__main__":
    app.run(main)
