"""The models of one server: which there are, and which one answers a request.

What is served is a ModelServerConfig, TF Serving's own proto: from a file of
the form of `deploy/serving/models.config`, which is read again when it changes,
or from a ReloadConfig request. Checks and messages follow TF Serving's
`server_core.cc`, as if it ran with
`--allow_version_labels_for_unavailable_models`: without it no label could be
set at the start, when nothing has been loaded yet.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

from absl import logging
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving import status_codes
from serving.server import model_versions
from trainer.storage import paths

PLATFORM = "tensorflow"


class ServedModels:
    """All models of a server, by name.

    Requests read `_models` and `_labels`, which are replaced and never
    changed. What changes them holds `_lock`.
    """

    def __init__(self, load: Callable[[str, int], Any]):
        """Serves nothing until `reload`.

        Args:
            load: see `model_versions.ModelVersions`.
        """
        self._load = load
        self._models: dict[str, model_versions.ModelVersions] = {}
        self._labels: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    @property
    def names(self) -> list[str]:
        """What clients call the models."""
        return sorted(self._models)

    def get(self, name: str, version: int | None, label: str | None) -> Any:
        """Returns the model that answers a request.

        Args:
            name: the model that the request names.
            version: a version number, or None for the newest.
            label: a version label, or None.

        Raises:
            StatusError: there is none.
        """
        if not name:
            raise status_codes.invalid_argument(
                "ModelSpec has no name specified."
            )
        if label is not None:
            version = self._labels.get((name, label))
            if version is None:
                raise status_codes.invalid_argument(
                    f"Unrecognized servable version label: {label}"
                )
        versions = self._models.get(name)
        model = versions.find(version) if versions else None
        if model is not None:
            return model
        wanted = (
            f"Specific({name}, {version})"
            if version is not None
            else f"Latest({name})"
        )
        raise status_codes.not_found(
            f"Servable not found for request: {wanted}"
        )

    def states(
        self, name: str, version: int | None
    ) -> dict[int, model_versions.VersionState]:
        """Returns the state of one version or of all, newest first."""
        versions = self._models.get(name)
        states = versions.states() if versions else {}
        if version is not None:
            if version not in states:
                raise status_codes.not_found(
                    f"Could not find version {version} of model {name}"
                )
            return {version: states[version]}
        if not states:
            raise status_codes.not_found(
                f"Could not find any versions of model {name}"
            )
        return states

    def reload(self, config: model_server_config_pb2.ModelServerConfig) -> None:
        """Serves what a configuration asks for.

        Models that it no longer names are dropped; a model whose versions do
        not load keeps those that it had.

        Raises:
            StatusError: the configuration is not one that TF Serving takes;
                nothing has changed.
            OSError: a base path cannot be listed.
        """
        if config.WhichOneof("config") != "model_config_list":
            raise status_codes.invalid_argument(
                "ServerModelConfig type not supported by "
                "HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            )
        configs = list(config.model_config_list.config)
        _check_configs(configs)
        with self._lock:
            labels = self._new_labels(configs)
            models = {}
            for each in configs:
                if not (
                    paths.is_bucket(each.base_path)
                    or os.path.isdir(each.base_path)
                ):
                    raise status_codes.not_found(
                        f"Could not find base path {each.base_path} for "
                        f"servable {each.name}"
                    )
                versions = self._models.get(each.name)
                if versions is None or versions.base_path != each.base_path:
                    versions = model_versions.ModelVersions(
                        each.base_path, self._load
                    )
                models[each.name] = versions
            removed = [
                versions
                for name, versions in self._models.items()
                if models.get(name) is not versions
            ]
            for each in configs:
                versions = models[each.name]
                versions.policy = _to_policy(each.model_version_policy)
                versions.refresh()
            self._models, self._labels = models, labels
            for versions in removed:
                versions.unload()

    def refresh(self) -> None:
        """Looks once for new versions of every model."""
        with self._lock:
            for name, versions in self._models.items():
                try:
                    versions.refresh()
                except OSError as error:
                    # A network file system may be gone for a while.
                    logging.warning(
                        "Cannot look for versions of %s: %s", name, error
                    )

    def start_polling(
        self, interval_s: float = 1.0, config_file: str | None = None
    ) -> None:
        """Looks for new versions until `stop`.

        Args:
            interval_s: seconds between two looks.
            config_file: is read again when it has changed.
        """
        modified = os.stat(config_file).st_mtime_ns if config_file else 0

        def poll():
            in_force = modified
            while not self._stopped.wait(interval_s):
                self.refresh()
                if config_file is not None:
                    in_force = self._reload_if_changed(config_file, in_force)

        threading.Thread(target=poll, name="served-models", daemon=True).start()

    def stop(self) -> None:
        """Ends the polling, but waits for no load; what is loaded stays."""
        self._stopped.set()

    def _reload_if_changed(self, config_file: str, modified: int) -> int:
        """Returns when the file that is in force was modified."""
        try:
            now_modified = os.stat(config_file).st_mtime_ns
            if now_modified == modified:
                return modified
            self.reload(read_config(config_file))
        except (OSError, ValueError, status_codes.StatusError) as error:
            # Tried again each second: a label waits for its version to load.
            message = " ".join(str(error).split())
            logging.warning("%s is not in force: %s", config_file, message)
            return modified
        logging.info("%s is in force", config_file)
        return now_modified

    def _new_labels(self, configs) -> dict[tuple[str, str], int]:
        labels = {}
        for config in configs:
            served = self._models.get(config.name)
            for label, version in config.version_labels.items():
                old_version = self._labels.get((config.name, label), version)
                loaded = served is not None and served.find(version) is not None
                if old_version != version and not loaded:
                    raise status_codes.StatusError(
                        "FAILED_PRECONDITION",
                        f"Request to assign label to version {version} of "
                        f"model {config.name}, which is not currently "
                        "available for inference",
                    )
                labels[config.name, label] = version
        return labels


def make_config(
    name: str, base_path: str
) -> model_server_config_pb2.ModelServerConfig:
    """Returns the configuration of one model, its newest version served."""
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(
        name=name, base_path=base_path, model_platform=PLATFORM
    )
    return config


def read_config(path: str) -> model_server_config_pb2.ModelServerConfig:
    """Returns the configuration in a text file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a ModelServerConfig.
    """
    text = paths.read_bytes(path).decode("utf-8")
    config = model_server_config_pb2.ModelServerConfig()
    try:
        return text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise ValueError(
            f"{path} must be a ModelServerConfig in protobuf's text format: "
            f"{error}."
        ) from error


def _check_configs(configs) -> None:
    names = set()
    for config in configs:
        if config.name in names:
            raise status_codes.invalid_argument(
                f"Illegal to list model {config.name} multiple times in "
                "config list"
            )
        names.add(config.name)
        if not (
            paths.is_bucket(config.base_path) or os.path.isabs(config.base_path)
        ):
            raise status_codes.invalid_argument(
                f"Expected model {config.name} to have an absolute path or "
                f"URI; got base_path()={config.base_path}"
            )
        if config.model_platform != PLATFORM:
            raise status_codes.invalid_argument(
                f"Model {config.name} requests unsupported platform "
                f"{config.model_platform}"
            )


def _to_policy(policy) -> model_versions.VersionPolicy:
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return model_versions.VersionPolicy(num_latest=None)
    if kind == "specific":
        return model_versions.VersionPolicy(
            specific=frozenset(policy.specific.versions)
        )
    # TF Serving takes 0, the default of the proto, as 1.
    return model_versions.VersionPolicy(max(policy.latest.num_versions, 1))
