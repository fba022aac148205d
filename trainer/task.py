"""Trains, evaluates and exports a classifier.

    python -m trainer.task --data_dir=records --job_dir=run

The head first, on features that are computed once, then the whole network;
with --weights=none all at once, from scratch. A run that was killed continues
when the same command is started again. The report is in JOB_DIR/evaluation.
"""

import dataclasses
import json
import os
import sys

from absl import app, flags

from trainer import api, config, config_flags, settings, startup
from trainer.storage import paths, staging

FLAGS = flags.FLAGS

config_flags.define()
flags.adopt_module_key_flags(config_flags)
flags.DEFINE_string(
    "hparams",
    "",
    "JSON file of settings, for example best_hyperparameters.json of a sweep. "
    "Flags given on the command line win over it.",
)


def _read_hparams(path: str) -> dict:
    try:
        hparams = json.loads(paths.read_bytes(path))
    except OSError as error:
        reason = error.strerror or str(error).rstrip(".")
        raise ValueError(f"--hparams={path}: {reason}.") from error
    except ValueError as error:
        raise ValueError(f"--hparams={path} is not JSON: {error}.") from error
    if not isinstance(hparams, dict):
        raise ValueError(
            f"--hparams={path} must hold settings by name, for example "
            '{"dropout": 0.4}.'
        )
    fields = {f.name: f for f in dataclasses.fields(config.TrainConfig)}
    unknown = sorted(set(hparams) - set(fields))
    if unknown:
        raise ValueError(
            f"--hparams={path} has unknown settings {', '.join(unknown)}: "
            "each must be the name of a flag of trainer.task."
        )
    try:
        for name, value in hparams.items():
            settings.check_type(fields[name], value)
    except ValueError as error:
        raise ValueError(f"--hparams={path}: {error}") from error
    return hparams


def make_config() -> config.TrainConfig:
    """The configuration that flags and `--hparams` say."""
    values = config_flags.values()
    if FLAGS.hparams:
        for name, value in _read_hparams(FLAGS.hparams).items():
            if not FLAGS[name].present:
                values[name] = value
    return config_flags.make_config(values)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    startup.set_up_logging(os.path.dirname(__file__))
    try:
        cfg = make_config()
    except ValueError as error:
        sys.exit(f"trainer.task: {error}")
    with staging.Workspace() as place:
        _run(cfg, place)


def _run(cfg: config.TrainConfig, place: staging.Workspace) -> None:
    # TensorFlow takes seconds to import; a wrong flag is told before that.
    startup.import_keras()
    import tensorflow as tf

    from trainer.training import cluster

    try:
        api.train_in(place, cfg)
    except (ValueError, OSError) as error:
        sys.exit(f"trainer.task: {error}")
    except tf.errors.DataLossError as error:
        sys.exit(
            f"trainer.task: a shard in --data_dir={cfg.data_dir} is damaged "
            f"({error.message.splitlines()[0]}): copy it again, or build the "
            "records again."
        )
    except tf.errors.ResourceExhaustedError as error:
        sys.exit(
            "trainer.task: memory or disk is full "
            f"({error.message.splitlines()[0]}): lower --global_batch_size or "
            "free the disk of --job_dir; the same command then continues."
        )
    except (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
    ) as error:
        peer = cluster.find_lost_task(error.message) or "another worker"
        sys.exit(
            f"trainer.task: {peer} stopped or cannot be reached: start all "
            "workers again; the same command continues."
        )


if __name__ == "__main__":
    startup.run(main, config_flags.headings() | {"hparams": "Sweep"})
