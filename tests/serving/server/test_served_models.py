"""Models, policies and labels of a configuration, with text for models."""

import threading

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving import status_codes
from serving.server import served_models
from tests.serving.server.test_model_versions import load, write_version
from tests.serving.waiting import wait_for


def make_config(*models: str):
    text = "\n".join(f"config {{ {model} }}" for model in models)
    return text_format.Parse(
        f"model_config_list {{ {text} }}",
        model_server_config_pb2.ModelServerConfig(),
    )


def model_text(name, base_path, extra=""):
    return (
        f'name: "{name}" base_path: "{base_path}" '
        f'model_platform: "tensorflow" {extra}'
    )


@pytest.fixture
def base_path(tmp_path):
    path = tmp_path / "m"
    path.mkdir()
    for version in (1, 2, 3):
        write_version(path, version)
    return path


@pytest.fixture
def models(base_path):
    served = served_models.ServedModels(load)
    served.reload(served_models.make_config("m", str(base_path)))
    return served


@pytest.mark.parametrize(
    ("name", "version", "label", "code", "message"),
    [
        ("x", None, None, "NOT_FOUND", "Latest(x)"),
        ("m", 7, None, "NOT_FOUND", "Specific(m, 7)"),
        ("m", 1, None, "NOT_FOUND", "Specific(m, 1)"),
        ("m", None, "stable", "INVALID_ARGUMENT", "label: stable"),
        ("", None, None, "INVALID_ARGUMENT", "no name"),
    ],
)
def test_unknown_model_gets_tf_serving_s_code(
    models, name, version, label, code, message
):
    with pytest.raises(status_codes.StatusError) as caught:
        models.get(name, version, label)
    assert caught.value.code == code
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", {3}),
        ("latest { num_versions: 2 }", {2, 3}),
        ("latest {}", {3}),
        ("all {}", {1, 2, 3}),
        ("specific { versions: 1 versions: 2 }", {1, 2}),
    ],
)
def test_policy_of_the_configuration_is_followed(
    models, base_path, policy, served
):
    extra = f"model_version_policy {{ {policy} }}"
    models.reload(make_config(model_text("m", base_path, extra)))
    states = models.states("m", None)
    assert {v for v, s in states.items() if s.state == "AVAILABLE"} == served


def test_label_moves_in_two_steps(models, base_path):
    def reload(versions, label_version):
        models.reload(
            make_config(
                model_text(
                    "m",
                    base_path,
                    f"model_version_policy {{ specific {{ {versions} }} }} "
                    f'version_labels {{ key: "stable" '
                    f"value: {label_version} }}",
                )
            )
        )

    reload("versions: 1", 1)
    assert models.get("m", None, "stable") == "model 1"
    with pytest.raises(
        status_codes.StatusError,
        match="Request to assign label to version 2 of model m, which is not "
        "currently available for inference",
    ) as caught:
        reload("versions: 1 versions: 2", 2)
    assert caught.value.code == "FAILED_PRECONDITION"
    assert models.get("m", None, "stable") == "model 1"
    reload("versions: 1 versions: 2", 1)
    reload("versions: 1 versions: 2", 2)
    assert models.get("m", None, "stable") == "model 2"


def test_new_label_may_wait_for_its_version(models, base_path):
    extra = 'version_labels { key: "next" value: 4 }'
    models.reload(make_config(model_text("m", base_path, extra)))
    with pytest.raises(status_codes.StatusError, match=r"Specific\(m, 4\)"):
        models.get("m", None, "next")
    write_version(base_path, 4)
    models.refresh()
    assert models.get("m", None, "next") == "model 4"


def test_model_that_is_not_named_any_more_is_dropped(
    models, base_path, tmp_path
):
    other = tmp_path / "other"
    other.mkdir()
    write_version(other, 1)
    both = (model_text("m", base_path), model_text("other", other))
    models.reload(make_config(*both))
    assert models.names == ["m", "other"]
    models.reload(make_config(both[1]))
    assert models.names == ["other"]
    with pytest.raises(status_codes.StatusError, match="any versions of"):
        models.states("m", None)


BAD_CONFIGS = {
    "no list": ("", "Only ModelConfigList is currently supported"),
    "twice": (
        "model_config_list { config { {m} } config { {m} } }",
        "Illegal to list model m multiple times in config list",
    ),
    "relative": (
        'model_config_list { config { name: "m" base_path: "a" '
        'model_platform: "tensorflow" } }',
        "to have an absolute path or URI; got base_path()=a",
    ),
    "platform": (
        'model_config_list { config { name: "m" base_path: "/" '
        'model_platform: "torch" } }',
        "requests unsupported platform torch",
    ),
    "missing": (
        'model_config_list { config { name: "m" base_path: "/nowhere" '
        'model_platform: "tensorflow" } }',
        "Could not find base path /nowhere for servable m",
    ),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_configuration_changes_nothing(models, base_path, case):
    text, message = BAD_CONFIGS[case]
    config = text_format.Parse(
        text.replace("{m}", model_text("m", base_path)),
        model_server_config_pb2.ModelServerConfig(),
    )
    with pytest.raises(status_codes.StatusError) as caught:
        models.reload(config)
    assert message in caught.value.message
    assert models.get("m", None, None) == "model 3"


def test_file_that_is_no_configuration_is_named(tmp_path):
    path = tmp_path / "models.config"
    path.write_text("model_list {}")
    with pytest.raises(ValueError, match=r"models.config must be a Model"):
        served_models.read_config(str(path))


def test_polling_follows_disk_and_file(models, base_path, tmp_path):
    path = tmp_path / "models.config"
    path.write_text(
        f"model_config_list {{ config {{ {model_text('m', base_path)} }} }}"
    )
    models.start_polling(0.01, str(path))
    try:
        write_version(base_path, 4)
        wait_for(lambda: models.get("m", None, None) == "model 4")
        path.write_text("a broken file")
        threading.Event().wait(0.1)
        assert models.get("m", None, None) == "model 4"
        extra = "model_version_policy { specific { versions: 2 } }"
        text = model_text("m", base_path, extra)
        path.write_text(f"model_config_list {{ config {{ {text} }} }}")
        wait_for(lambda: models.get("m", None, None) == "model 2")
    finally:
        models.stop()
