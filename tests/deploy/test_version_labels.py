import pytest

from deploy import model_base, publish, version_labels


@pytest.fixture
def published(exports, tmp_path):
    """Two versions under a base path, and a file that does not exist yet."""
    base = model_base.open_base(str(tmp_path / "models"))
    for version_dir in exports[:2]:
        publish.publish(version_dir, base)
    return base, str(tmp_path / "models.config")


def step(path, base, label, number, newest_before):
    config, is_final = version_labels.next_step(
        version_labels.read(path),
        "brain_mri",
        base.path,
        label,
        number,
        newest_before,
    )
    version_labels.write(path, config)
    return is_final


def policy(path):
    """Versions and labels of the one model in the file."""
    (model,) = version_labels.read(path).model_config_list.config
    return (
        list(model.model_version_policy.specific.versions),
        dict(model.version_labels),
    )


def test_label_moves_only_after_the_version_is_served(published):
    base, path = published
    assert not step(path, base, "stable", 1, None)
    assert policy(path) == ([1], {})
    assert step(path, base, "stable", 1, None)
    assert policy(path) == ([1], {"stable": 1})
    assert not step(path, base, "canary", 2, 1)
    assert policy(path) == ([1, 2], {"stable": 1})
    assert step(path, base, "canary", 2, 1)
    assert policy(path) == ([1, 2], {"stable": 1, "canary": 2})
    assert step(path, base, "stable", 2, 1)
    assert policy(path) == ([2], {"stable": 2, "canary": 2})


def test_version_served_without_a_policy_stays_served(published):
    base, path = published
    assert not step(path, base, "canary", 2, 1)
    assert policy(path) == ([1, 2], {})


def test_other_models_and_the_mounted_path_are_left_alone(published):
    base, path = published
    with open(path, "w") as file:
        file.write(
            "model_config_list {"
            ' config { name: "other" base_path: "/models/other" }'
            ' config { name: "brain_mri" base_path: "/mount" } }'
        )
    step(path, base, "stable", 2, 1)
    other, ours = version_labels.read(path).model_config_list.config
    assert (other.name, other.base_path) == ("other", "/models/other")
    assert ours.base_path == "/mount"
    assert not other.model_version_policy.specific.versions
    assert version_labels.served_versions(
        version_labels.read(path), "brain_mri"
    ) == {1, 2}


def test_file_that_is_no_config_is_refused_in_a_sentence(published):
    _, path = published
    with open(path, "w") as file:
        file.write("models: brain_mri")
    with pytest.raises(ValueError, match="must be a ModelServerConfig"):
        version_labels.read(path)
