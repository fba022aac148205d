"""Labels of versions in `models.config`, moved in TF Serving's two steps.

TF Serving refuses a label of a version that is not loaded yet. So the version
is first added to those that are served, and only when it answers does the
label move. Each call makes the next step that is left.
"""

import copy
import os

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from trainer.storage import paths

Config = model_server_config_pb2.ModelServerConfig
LABELS = ("stable", "canary")
_HEADER = """\
# Which versions TF Serving loads, and what clients may call them: written by
# deploy.publish. Start the server with --model_config_file=THIS and
# --model_config_file_poll_wait_seconds=10, and a change needs no restart.
"""


def read(path: str) -> Config:
    """The configuration of a file; an empty one if there is none.

    Raises:
        ValueError: if it is not a ModelServerConfig.
    """
    config = Config()
    if not paths.exists(path):
        return config
    try:
        return text_format.Parse(paths.read_bytes(path), config)
    except text_format.ParseError as error:
        raise ValueError(
            f"--model_config_file={path} must be a ModelServerConfig in "
            f"protobuf's text format: {error}."
        ) from error


def write(path: str, config: Config) -> None:
    """Replaces the file as a whole."""
    text = text_format.MessageToString(config)
    paths.write_atomically(path, f"{_HEADER}{text}")


def labels(config: Config, model_name: str) -> dict[str, int]:
    """Versions of a model by their labels."""
    model = _find(config, model_name)
    return dict(model.version_labels) if model else {}


def served_versions(config: Config, model_name: str) -> set[int]:
    """Versions of a model that a configuration names."""
    model = _find(config, model_name)
    specific = model.model_version_policy.specific.versions if model else ()
    return {*specific, *labels(config, model_name).values()}


def next_step(
    config: Config,
    model_name: str,
    base_path: str,
    label: str,
    version: int,
    newest_before: int | None,
) -> tuple[Config, bool]:
    """The configuration after the next step towards a label.

    Args:
        config: as it is.
        model_name: that clients ask for.
        base_path: of the model, if the configuration does not know it yet.
        label: to move.
        version: that it shall name.
        newest_before: the version that a server without a policy of its own
            serves now; None if there is none.

    Returns:
        The configuration, and whether the label names the version in it.
    """
    config = copy.deepcopy(config)
    if not paths.is_bucket(base_path):
        base_path = os.path.abspath(base_path)
    # Its base path is the one that the server sees, perhaps a mount.
    model = _find(config, model_name) or config.model_config_list.config.add(
        name=model_name, base_path=base_path, model_platform="tensorflow"
    )
    specific = model.model_version_policy.specific
    served = set(specific.versions)
    if not served and newest_before is not None:
        served = {newest_before}
    is_final = version in served
    if is_final:
        model.version_labels[label] = version
        served = set()
    served |= {*model.version_labels.values(), version}
    # Setting it replaces a policy like `latest`.
    specific.versions[:] = sorted(served)
    return config, is_final


def _find(config, model_name: str):
    """The model's part of a configuration; None if it has none."""
    models = config.model_config_list.config
    return next((m for m in models if m.name == model_name), None)
