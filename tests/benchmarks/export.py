"""An exported version beside `model.export`, ONNX Runtime, OpenVINO, LiteRT.

    python -m tests.benchmarks.export --job_dir=run --data_dir=records

All take turns on the same pixels of float32, with the same number of threads,
the SavedModels in sessions of the C++ runtime as in TF Serving. Per batch size:
median milliseconds, and the median over rounds of how many times as long as
ONNX Runtime each took, with the middle half. OpenVINO is asked if it is
installed, and ONNX Runtime and LiteRT if the run was given
--export_formats=saved_model,onnx,litert.
"""

import os
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from tests.benchmarks.ratios import tell
from trainer.data import input_pipeline, preprocessing
from trainer.export import signature

FLAGS = flags.FLAGS
flags.DEFINE_string("job_dir", None, "Finished run.", required=True)
flags.DEFINE_string("data_dir", None, "Its records.", required=True)
flags.DEFINE_integer("version", 1, "Of the export.")
flags.DEFINE_integer("num_threads", 2, "Of each runtime.", lower_bound=1)
flags.DEFINE_integer("num_rounds", 60, "Calls of each; fewer of large batches.")
flags.DEFINE_list("batch_sizes", ["1", "8", "32"], "Images in a call.")


def session_call(directory: str, name: str):
    """A function of a batch, which runs a signature."""
    settings = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=FLAGS.num_threads,
        inter_op_parallelism_threads=FLAGS.num_threads,
    )
    with tf.Graph().as_default():
        session = tf.compat.v1.Session(config=settings)
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], directory)
    definition = loaded.signature_def[name]
    (given,) = definition.inputs.values()
    wanted = [output.name for output in definition.outputs.values()]
    return session.make_callable(wanted, feed_list=[given.name])


def onnx_call(path: str):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = FLAGS.num_threads
    session = onnxruntime.InferenceSession(path, options)
    return lambda pixels: session.run(None, {signature.PIXELS_INPUT: pixels})


def litert_call(path: str):
    from ai_edge_litert import interpreter

    run = interpreter.Interpreter(path, num_threads=FLAGS.num_threads)
    run = run.get_signature_runner()
    return lambda pixels: run(**{signature.PIXELS_INPUT: pixels})


def openvino_call(path: str):
    import openvino

    model = openvino.Core().compile_model(
        path, "CPU", {"INFERENCE_NUM_THREADS": FLAGS.num_threads}
    )
    return lambda pixels: model([pixels])


def make_calls() -> dict:
    """A function of a batch of pixels for each."""
    version = os.path.join(FLAGS.job_dir, "export", str(FLAGS.version))
    path, litert_path = (
        os.path.join(version, signature.RUNTIME_FILES[name])
        for name in ("onnx", "litert")
    )
    calls = {signature.PIXELS: session_call(version, signature.PIXELS)}
    model = keras.models.load_model(
        os.path.join(FLAGS.job_dir, "medical_image_classifier.keras"),
        compile=False,
    )
    with tempfile.TemporaryDirectory() as directory:
        model.export(directory, verbose=False)
        calls["model.export"] = session_call(directory, "serving_default")
    if os.path.exists(litert_path):
        calls["LiteRT"] = litert_call(litert_path)
    if os.path.exists(path):
        calls["ONNX Runtime"] = onnx_call(path)
        try:
            calls["OpenVINO"] = openvino_call(path)
        except ImportError:
            print("OpenVINO is not installed.")
    return calls


def time_in_turns(calls: dict, num_rounds: int) -> dict[str, np.ndarray]:
    """Milliseconds of each call in each round."""
    times = {name: [] for name in calls}
    for _ in range(num_rounds + 3):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.array(found[3:]) for name, found in times.items()}


def show(times: dict[str, np.ndarray], anchor: str) -> None:
    for name, found in times.items():
        low, ratio, high = np.percentile(found / times[anchor], [25, 50, 75])
        print(
            f"  {name:16s} {np.median(found):7.1f} ms, {ratio:.2f} times "
            f"{anchor} ({low:.2f} to {high:.2f})"
        )


def main(argv):
    del argv
    info = input_pipeline.read_dataset_info(FLAGS.data_dir)
    files = input_pipeline.split_files(FLAGS.data_dir, info, "test")
    images = list(input_pipeline.iterate_encoded(files))
    calls = make_calls()
    version = os.path.join(FLAGS.job_dir, "export", str(FLAGS.version))
    serve = session_call(version, signature.SERVING_DEFAULT)
    shape = keras.models.load_model(
        os.path.join(FLAGS.job_dir, "medical_image_classifier.keras"),
        compile=False,
    ).input.shape
    pixels = np.stack(
        [preprocessing.prepare_image(i, *shape[2:]) for i in images]
    )
    anchor = "ONNX Runtime" if "ONNX Runtime" in calls else "model.export"
    for size in map(int, FLAGS.batch_sizes):
        chosen = np.resize(np.arange(len(images)), size)
        batch, encoded = pixels[chosen], [images[i] for i in chosen]
        bound = {
            name: lambda call=call, batch=batch: call(batch)
            for name, call in calls.items()
        }
        bound["serving_default"] = lambda e=encoded: serve(e)
        print(f"Batches of {size}:")
        times = time_in_turns(bound, max(5, FLAGS.num_rounds // size))
        show(times, anchor)
        ours = times[signature.PIXELS]
        for name in sorted(calls.keys() - {signature.PIXELS}):
            # Of single calls the middle half.
            middle = np.percentile(times[name] / ours, [25, 50, 75])
            tell(f"Export, batch {size}", name, middle)


if __name__ == "__main__":
    app.run(main)
