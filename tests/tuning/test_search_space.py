import json

import pytest

from trainer import config
from tuning import search_space

BASE = vars(config.TrainConfig(data_dir="d", job_dir="j"))
VALUES = {
    "num_hidden_layers": 2,
    "hidden_units": 64,
    "head_activation": "gelu",
    "head_batch_norm": 1,
    "dropout": 0.25,
    "optimizer": "sgd",
    "head_learning_rate": 0.01,
    "schedule": "constant",
    "weight_decay": 1e-3,
    "global_batch_size": 16,
    "label_smoothing": 0.1,
    "class_weights": "none",
    "focal_gamma": 1.0,
    "augmentation_strength": 0.0,
}


def narrow(tmp_path, content):
    path = tmp_path / "space.json"
    path.write_text(
        content if isinstance(content, str) else json.dumps(content)
    )
    return search_space.read_space(str(path))


def test_narrowed_space_has_what_was_asked_for_and_the_rest(tmp_path):
    space = narrow(
        tmp_path,
        {
            "dropout": [0.2, 0.4],
            "head_learning_rate": [1e-3, 1e-2],
            "optimizer": ["sgd"],
            "weight_decay": 1e-3,
        },
    )
    assert space["dropout"] == search_space.Range(0.2, 0.4)
    narrowed = search_space.Range(1e-3, 1e-2, "log")
    assert space["head_learning_rate"] == narrowed
    assert space["optimizer"].values == ("sgd",)
    assert space["weight_decay"].values == (1e-3,)
    whole = search_space.SPACE | search_space.SECOND_STAGE
    narrowed = {"dropout", "head_learning_rate", "optimizer", "weight_decay"}
    for name in set(space) - narrowed:
        assert space[name] == whole[name]
    assert search_space.read_space("") == whole
    assert narrow(tmp_path, {"fine_tune_blocks": [0, 4]})[
        search_space.DEPTH
    ].values == (0, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ([1], "must be a JSON object"),
        (
            {"momentum": 0.9},
            "has momentum, which is not searched: choose among",
        ),
        ({"dropout": []}, r"dropout must be one number or a lower .* \[\]"),
        (
            {"dropout": [0.4, 0.2]},
            r"within 0.0 and 0.7. Received: \[0.4, 0.2\]",
        ),
        (
            {"dropout": [0.1, 0.9]},
            r"within 0.0 and 0.7. Received: \[0.1, 0.9\]",
        ),
        ({"dropout": "high"}, "dropout must be one number"),
        ({"optimizer": []}, r"optimizer must be some of \['adamw', 'sgd'\]"),
        ({"optimizer": ["adamw", "lion"]}, "optimizer must be some of"),
    ],
)
def test_wrong_space_is_refused_in_a_sentence(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        narrow(tmp_path, content)


def test_hyperparameters_of_hidden_layers_are_searched_where_there_are_some():
    found = search_space.to_hyperparameters(search_space.SPACE)
    assert {hp.name for hp in found.space} == set(search_space.SPACE)
    drawn = {hp.name: hp for hp in found.space}
    for name, values in search_space.SPACE.items():
        if isinstance(values, search_space.Range):
            middle = drawn[name].prob_to_value(0.5)
            mean = (values.low + values.high) / 2
            if values.sampling == "log":
                mean = (values.low * values.high) ** 0.5
            assert middle == pytest.approx(mean)
    conditional = {hp.name for hp in found.space if hp.conditions}
    assert conditional == {"hidden_units", "head_activation", "head_batch_norm"}
    without = dict(search_space.SPACE)
    without["num_hidden_layers"] = search_space.Choice((0,))
    names = {hp.name for hp in search_space.to_hyperparameters(without).space}
    assert names == set(search_space.SPACE) - conditional


def test_settings_are_fields_of_a_run():
    settings = search_space.to_settings(VALUES, BASE)
    cfg = config.TrainConfig(
        data_dir="d",
        job_dir="j",
        **{**settings, "hidden_units": tuple(settings["hidden_units"])},
    )
    assert cfg.hidden_units == (64, 32)
    assert cfg.head_batch_norm is True
    assert (cfg.optimizer, cfg.global_batch_size) == ("sgd", 16)
    # No augmentation: one view, and nothing left of its ranges.
    assert (cfg.rotation_degrees, cfg.contrast) == (0.0, 0.0)
    assert (cfg.horizontal_flip, cfg.feature_views) == (False, 1)


def test_full_strength_is_the_sweeps_own_augmentation():
    settings = search_space.to_settings(
        {**VALUES, "augmentation_strength": 1.0, "num_hidden_layers": 0}, BASE
    )
    assert settings["rotation_degrees"] == BASE["rotation_degrees"]
    assert settings["horizontal_flip"] is True
    assert settings["feature_views"] == BASE["feature_views"]
    assert settings["hidden_units"] == []
