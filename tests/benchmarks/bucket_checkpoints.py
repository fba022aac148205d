"""What a checkpoint in a bucket costs a run, here and with TensorFlow's gs://.

    python -m tests.benchmarks.bucket_checkpoints --num_rounds=5

A checkpoint of fine-tuning (model, optimizer and the best weights so far) is
saved ten times a round: to `gs://` by TensorFlow's own file system, and to a
local directory that a mirror brings to the bucket. Both reach an emulator
through one proxy on this machine, so there is no network, TensorFlow's requests
are encrypted and the others are not: the number of requests is what compares,
each of which waits for a round trip elsewhere.
"""

import os
import statistics
import tempfile
import time

from absl import app, flags

from tests import cloud_storage
from tests.benchmarks.ratios import tell

FLAGS = flags.FLAGS
flags.DEFINE_integer("num_rounds", 3, "Rounds of ten checkpoints each way.")
_NUM_CHECKPOINTS = 10


def _make_checkpoint(directory: str):
    import keras

    from trainer.model import classifier
    from trainer.training import checkpoints

    model = classifier.build_classifier(64, 1, classifier.build_head(2, (), 0))
    classifier.set_trainable(model, 2, train_batch_norm=False)
    optimizer = keras.optimizers.AdamW()
    optimizer.build(model.trainable_variables)
    checkpoint = checkpoints.PhaseCheckpoint(directory, model, optimizer)
    checkpoint.progress.best_weights = model.get_weights()
    return checkpoint


def _save(checkpoint) -> float:
    """Seconds that a run waits for the checkpoints."""
    start = time.perf_counter()
    for step in range(_NUM_CHECKPOINTS):
        checkpoint.progress.step = step + 1
        checkpoint.save()
    return time.perf_counter() - start


def main(argv):
    del argv
    with (
        tempfile.TemporaryDirectory() as directory,
        cloud_storage.serve(directory) as cloud,
    ):
        os.environ |= cloud.environment
        from trainer.storage import mirror

        bucket = f"gs://{cloud.make_bucket()}"
        rounds = []
        for i in range(FLAGS.num_rounds):
            cloud.heal()
            native = _save(_make_checkpoint(f"{bucket}/native{i}"))
            num_native = len(cloud.requests)
            cloud.heal()
            local = os.path.join(directory, str(i))
            os.mkdir(local)
            follower = mirror.Mirror(f"{bucket}/mirror{i}", local)
            follower.start()
            here = _save(_make_checkpoint(f"{local}/checkpoints/head"))
            start = time.perf_counter()
            follower.close()
            flush = time.perf_counter() - start
            num_here = len(cloud.requests)
            rounds.append((native / here, num_native, num_here))
            print(
                f"{_NUM_CHECKPOINTS} checkpoints: TensorFlow's gs:// "
                f"{native:.1f} s and {num_native} requests, all waited for; "
                f"here {here:.1f} s, {num_here} requests beside the run, and "
                f"{flush:.1f} s at its end.",
                flush=True,
            )
        found, *counts = zip(*rounds, strict=True)
        num_native, num_here = map(statistics.median, counts)
        print(f"{num_here:.0f} requests instead of {num_native:.0f}.")
        tell("Checkpoints in a bucket", "TensorFlow's gs://", found)


if __name__ == "__main__":
    app.run(main)
