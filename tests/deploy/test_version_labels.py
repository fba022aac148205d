import pytest

from deploy import version_labels


@pytest.fixture
def path(tmp_path):
    """Of a file that does not exist yet."""
    return str(tmp_path / "models.config")


def step(path, label, number, newest_before):
    """Makes a step in the file; returns whether it is the last one."""
    config = version_labels.read(path)
    config, is_final = version_labels.next_step(
        config, "classifier", "/models", label, number, newest_before
    )
    version_labels.write(path, config)
    return is_final


def policy(path):
    """Versions and labels of the one model in the file."""
    (model,) = version_labels.read(path).model_config_list.config
    versions = list(model.model_version_policy.specific.versions)
    return versions, dict(model.version_labels)


def test_label_moves_only_after_the_version_is_served(path):
    for label, number, newest_before, is_final, expected in (
        ("stable", 1, None, False, ([1], {})),
        ("stable", 1, None, True, ([1], {"stable": 1})),
        ("canary", 2, 1, False, ([1, 2], {"stable": 1})),
        ("canary", 2, 1, True, ([1, 2], {"stable": 1, "canary": 2})),
        ("stable", 2, 1, True, ([2], {"stable": 2, "canary": 2})),
    ):
        assert step(path, label, number, newest_before) is is_final
        assert policy(path) == expected


def test_version_served_without_a_policy_stays_served(path):
    assert not step(path, "canary", 2, 1)
    assert policy(path) == ([1, 2], {})


def test_other_models_and_the_mounted_path_are_left_alone(path):
    with open(path, "w") as file:
        file.write(
            "model_config_list {"
            ' config { name: "other" base_path: "/models/other" }'
            ' config { name: "classifier" base_path: "/mount" } }'
        )
    step(path, "stable", 2, 1)
    config = version_labels.read(path)
    other, ours = config.model_config_list.config
    assert (other.name, other.base_path) == ("other", "/models/other")
    assert ours.base_path == "/mount"
    assert not other.model_version_policy.specific.versions
    assert version_labels.served_versions(config, "classifier") == {1, 2}


def test_file_that_is_no_config_is_refused_in_a_sentence(path):
    with open(path, "w") as file:
        file.write("models: classifier")
    with pytest.raises(ValueError, match="must be a ModelServerConfig"):
        version_labels.read(path)
