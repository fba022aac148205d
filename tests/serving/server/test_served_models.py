"""Models, policies and labels of a configuration, with text for models."""

import time

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving import status_codes
from serving.server import served_models
from tests.serving.helpers import wait_for
from tests.serving.server.test_model_versions import load, write_version


def config_text(*models: str):
    text = "\n".join(f"config {{ {model} }}" for model in models)
    return f"model_config_list {{ {text} }}"


def parse(text):
    return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())


def model_text(name, base_path, extra="", platform="tensorflow"):
    return (
        f'name: "{name}" base_path: "{base_path}" '
        f'model_platform: "{platform}" {extra}'
    )


@pytest.fixture
def base_path(tmp_path):
    for version in (1, 2, 3):
        write_version(tmp_path / "m", version)
    return tmp_path / "m"


@pytest.fixture
def reload(models, base_path):
    """Returns a function that configures the model."""

    def reload(extra):
        text = config_text(model_text("m", base_path, extra))
        models.reload(parse(text))

    return reload


@pytest.fixture
def models(base_path):
    served = served_models.ServedModels(load)
    served.reload(served_models.make_config("m", str(base_path)))
    return served


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", {3}),
        ("latest { num_versions: 2 }", {2, 3}),
        ("latest {}", {3}),
        ("all {}", {1, 2, 3}),
        ("specific { versions: 1 versions: 2 versions: 9 }", {1, 2}),
    ],
)
def test_policy_of_the_configuration_is_followed(
    models, reload, policy, served
):
    reload(f"model_version_policy {{ {policy} }}")
    states = models.states("m", None)
    assert {v for v, s in states.items() if s.state == "AVAILABLE"} == served
    assert models.get("m", None, None) == f"model {max(served)}"
    for version in served:
        assert models.get("m", version, None) == f"model {version}"
    for version in {1, 2, 3, 9} - served:
        with pytest.raises(status_codes.StatusError) as caught:
            models.get("m", version, None)
        assert caught.value.code == "NOT_FOUND"


def test_label_moves_in_two_steps(models, reload):
    def label(versions, version):
        reload(
            f"model_version_policy {{ specific {{ {versions} }} }} "
            f'version_labels {{ key: "stable" value: {version} }}'
        )

    label("versions: 1", 1)
    assert models.get("m", None, "stable") == "model 1"
    with pytest.raises(
        status_codes.StatusError,
        match="Request to assign label to version 2 of model m, which is not "
        "currently available for inference",
    ) as caught:
        label("versions: 1 versions: 2", 2)
    assert caught.value.code == "FAILED_PRECONDITION"
    assert models.get("m", None, "stable") == "model 1"
    label("versions: 1 versions: 2", 1)
    label("versions: 1 versions: 2", 2)
    assert models.get("m", None, "stable") == "model 2"


def test_new_label_may_wait_for_its_version(models, reload, base_path):
    reload('version_labels { key: "next" value: 4 }')
    with pytest.raises(status_codes.StatusError, match=r"Specific\(m, 4\)"):
        models.get("m", None, "next")
    write_version(base_path, 4)
    models.refresh()
    assert models.get("m", None, "next") == "model 4"


def test_model_that_is_not_named_any_more_is_dropped(
    models, base_path, tmp_path
):
    write_version(tmp_path / "other", 1)
    both = (
        model_text("m", base_path),
        model_text("other", tmp_path / "other"),
    )
    models.reload(parse(config_text(*both)))
    assert models.names == ["m", "other"]
    models.reload(parse(config_text(both[1])))
    assert models.names == ["other"]
    with pytest.raises(status_codes.StatusError, match="any versions of"):
        models.states("m", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Only ModelConfigList is currently supported"),
        (
            config_text(model_text("m", "/"), model_text("m", "/")),
            "Illegal to list model m multiple times in config list",
        ),
        (
            config_text(model_text("m", "a")),
            "to have an absolute path or URI; got base_path()=a",
        ),
        (
            config_text(model_text("m", "/", platform="torch")),
            "requests unsupported platform torch",
        ),
        (
            config_text(model_text("m", "/nowhere")),
            "Could not find base path /nowhere for servable m",
        ),
    ],
)
def test_bad_configuration_changes_nothing(models, text, message):
    with pytest.raises(status_codes.StatusError) as caught:
        models.reload(parse(text))
    assert message in caught.value.message
    assert models.get("m", None, None) == "model 3"


def test_file_that_is_no_configuration_is_named(tmp_path):
    path = tmp_path / "models.config"
    path.write_text("model_list {}")
    with pytest.raises(ValueError, match=r"models.config must be a Model"):
        served_models.read_config(str(path))


def test_polling_follows_disk_and_file(models, base_path, tmp_path):
    path = tmp_path / "models.config"
    path.write_text(config_text(model_text("m", base_path)))
    models.start_polling(0.01, str(path))
    try:
        write_version(base_path, 4)
        wait_for(lambda: models.get("m", None, None) == "model 4")
        path.write_text("a broken file")
        time.sleep(0.1)
        assert models.get("m", None, None) == "model 4"
        extra = "model_version_policy { specific { versions: 2 } }"
        path.write_text(config_text(model_text("m", base_path, extra)))
        wait_for(lambda: models.get("m", None, None) == "model 2")
    finally:
        models.stop()
