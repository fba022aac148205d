"""A flag of every field of `TrainConfig`, for the commands that take them."""

import dataclasses

from absl import flags

from trainer import config, vertex
from trainer.storage import paths, staging

_DEFINE = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}
# Of the help, by the first field under each.
_HEADINGS = {
    "data_dir": "Directories",
    "weights": "Model and phases",
    "head_learning_rate": "Optimizer",
    "label_smoothing": "Loss",
    "hidden_units": "Head",
    "rotation_degrees": "Augmentation",
    "operating_point": "Evaluation",
    "precision": "Machines and speed",
    "deterministic": "Repetition",
}


def define(left_out: tuple[str, ...] = ()) -> None:
    """Defines the flags, but for some, with the fields' defaults and help.

    A command then calls `flags.adopt_module_key_flags(config_flags)`, so that
    its --help shows them, under `headings`.
    """
    for field in dataclasses.fields(config.TrainConfig):
        if field.name in left_out:
            continue
        text = field.metadata["help"]
        if field.metadata["between"]:
            low, high = field.metadata["between"]
            text += f" From {low} to {high}."
        if field.name == "hidden_units":
            flags.DEFINE_list("hidden_units", [], text)
        else:
            _DEFINE[field.type](field.name, field.default, text)


def headings() -> dict[str, str]:
    """What each flag stands under in the help."""
    heading, found = "", {}
    for field in dataclasses.fields(config.TrainConfig):
        heading = _HEADINGS.get(field.name, heading)
        found[field.name] = heading
    return found


def values() -> dict:
    """The values of the flags that are defined, by name.

    Directories that are not given are those of a job on Vertex AI.

    Raises:
        ValueError: if its environment names ones that cannot be used.
    """
    names = [field.name for field in dataclasses.fields(config.TrainConfig)]
    given = {
        name: flags.FLAGS[name].value for name in names if name in flags.FLAGS
    }
    for name in ("data_dir", "job_dir", "export_dir"):
        if given.get(name) == "":
            given[name] = vertex.default_path(name)
    return given


def make_config(settings: dict) -> config.TrainConfig:
    """A configuration of settings by name.

    Raises:
        ValueError: if a setting is not valid.
    """
    if "hidden_units" in settings:
        try:
            units = tuple(int(u) for u in settings["hidden_units"])
        except (TypeError, ValueError) as error:
            raise ValueError(
                "--hidden_units must be numbers separated by commas. Received: "
                f"hidden_units={settings['hidden_units']}."
            ) from error
        settings = settings | {"hidden_units": units}
    return config.TrainConfig(**settings)


def bring_here(
    cfg: config.TrainConfig, place: staging.Workspace, is_chief: bool
) -> config.TrainConfig:
    """A configuration whose paths in Cloud Storage are local copies.

    Args:
        cfg: as the user gave it.
        place: that keeps them.
        is_chief: whether this process writes what the run leaves.

    Raises:
        OSError: if something cannot be read or written.
    """
    data_dir, features_dir = cfg.data_dir, cfg.features_dir
    if paths.is_remote(data_dir):
        features_dir = features_dir or paths.join(data_dir, "features")
    # First what a wrong flag is told of without a long copy.
    job_dir = place.mirror(cfg.job_dir, is_chief)
    export_dir = cfg.export_dir
    if is_chief:
        export_dir = place.mirror(cfg.export_dir)
    weights = place.stage_file(cfg.weights, "weights")
    if cfg.stage_data:
        data_dir = place.stage_records(data_dir)
    return dataclasses.replace(
        cfg,
        data_dir=data_dir,
        features_dir=features_dir,
        job_dir=job_dir,
        export_dir=export_dir,
        weights=weights,
    )
