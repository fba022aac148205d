"""Lightbox from Python: what the commands do, as functions.

    from trainer import api

    api.build_records(api.BuildOptions(input_dir="scans", output_dir="records"))
    version_dir = api.train(api.TrainConfig(data_dir="records", job_dir="run"))

Wrong settings, data or files are a ValueError or an OSError of one sentence.
Paths may be `gs://` where those of the commands may be. Log lines appear after
`absl.logging.set_verbosity("info")`.
"""

from trainer import config_flags, startup
from trainer.config import TrainConfig
from trainer.data.build.options import BuildOptions
from trainer.data.records import DatasetInfo
from trainer.storage import staging

__all__ = ["BuildOptions", "TrainConfig", "build_records", "train"]


def build_records(options: BuildOptions) -> DatasetInfo:
    """Turns images into records, as `trainer.data.build_records` does.

    Args:
        options: fields are the flags of the command; paths are local.

    Returns:
        What `dataset.json` holds: classes, counts, fingerprint.
    """
    from trainer.data.build import dataset

    return dataset.build(options)


def train(cfg: TrainConfig) -> str:
    """Trains, evaluates and exports, as `trainer.task` does.

    Call it again after an interruption: it goes on where that was.

    Args:
        cfg: fields are the flags of the command.

    Returns:
        Directory of the exported version; empty on a worker that is not the
        chief.
    """
    with staging.Workspace() as place:
        return train_in(place, cfg)


def train_in(place: staging.Workspace, cfg: TrainConfig) -> str:
    """`train` with local copies of what is in Cloud Storage in a place."""
    startup.import_keras()
    from trainer import pipeline
    from trainer.training import cluster

    return pipeline.run(config_flags.bring_here(cfg, place, cluster.is_chief()))
