import dataclasses
import importlib.util
import json
import re

import pytest
from absl import flags

from tests import processes
from trainer import config, pipeline, task

FLAGS = flags.FLAGS


@pytest.fixture
def parse():
    """Parses flags of trainer.task and forgets them afterwards."""

    def parse_flags(*arguments):
        FLAGS.unparse_flags()
        FLAGS(["task", "--data_dir=d", "--job_dir=j", *arguments])
        return task.make_config()

    yield parse_flags
    for name in (
        "hparams",
        *(f.name for f in dataclasses.fields(config.TrainConfig)),
    ):
        FLAGS[name].unparse()
    FLAGS.unparse_flags()


def test_defaults_are_those_of_the_config(parse):
    assert parse() == config.TrainConfig(data_dir="d", job_dir="j")


def read_help(module):
    """What a command's --help says, and the names of the flags in it."""
    done = processes.run(module, "--help")
    names = re.findall(r"^  --(?:\[no\])?(\w+):", done.stdout, re.M)
    return " ".join(done.stdout.split()), set(names)


def test_help_shows_every_flag_with_its_range():
    text, names = read_help("trainer.task")
    fields = {field.name for field in dataclasses.fields(config.TrainConfig)}
    assert names == fields | {"hparams"}
    assert "in pixels. From 32 to 1024. (default: '224')" in text
    # In groups, each under its heading.
    order = ["Optimizer:", "--optimizer:", "Loss:", "--label_smoothing:"]
    order += ["Augmentation:", "--[no]vertical_flip:", "Evaluation:"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("module", "shared"),
    [
        ("tuning.task", {"data_dir", "weights", "seed", "oracle"}),
        ("deploy.vertex.submit", {"machine_type", "region", "action"}),
    ],
)
def test_help_shows_the_flags_that_commands_share(module, shared):
    text, names = read_help(module)
    assert shared <= names
    assert "Loss:" not in text  # the space decides on all of it
    assert not names & {"dropout", "hidden_units"}


def test_flags_reach_the_config(parse):
    cfg = parse("--hidden_units=64,16", "--dropout=0.5", "--nohorizontal_flip")
    assert cfg.hidden_units == (64, 16)
    assert cfg.dropout == 0.5
    assert cfg.horizontal_flip is False


def test_hparams_replace_defaults_but_not_flags(parse, tmp_path):
    path = tmp_path / "best.json"
    path.write_text(json.dumps({"dropout": 0.4, "hidden_units": [32]}))
    cfg = parse(f"--hparams={path}", "--dropout=0.1")
    assert cfg.dropout == 0.1
    assert cfg.hidden_units == (32,)


def test_directories_of_vertex_ai_are_defaults(parse, monkeypatch):
    monkeypatch.setenv("AIP_TRAINING_DATA_URI", "gs://b/records/train-*")
    monkeypatch.setenv("AIP_CHECKPOINT_DIR", "gs://b/run/checkpoints/")
    monkeypatch.setenv("AIP_MODEL_DIR", "gs://b/run/model/")
    assert parse() == config.TrainConfig(
        data_dir="d", job_dir="j", export_dir="gs://b/run/model"
    )
    cfg = parse("--data_dir=", "--job_dir=", "--export_dir=e")
    assert (cfg.data_dir, cfg.job_dir) == ("gs://b/records", "gs://b/run")
    assert cfg.export_dir == "e"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"depth": 3}', "unknown settings depth"),
        ("{", "is not JSON"),
        ("[1]", "must hold settings by name"),
        ('{"image_size": "224"}', 'image_size must be a whole number.*"224"'),
        ('{"image_size": 224.0}', "image_size must be a whole number"),
        ('{"image_size": true}', "image_size must be a whole number.*true"),
        ('{"dropout": "0.1"}', "dropout must be a number"),
        ('{"dropout": [0.1]}', "dropout must be a number"),
        ('{"dropout": null}', "dropout must be a number.*null"),
        ('{"optimizer": 3}', "optimizer must be a text"),
        ('{"horizontal_flip": 1}', "horizontal_flip must be true or false"),
        ('{"hidden_units": "64"}', "hidden_units must be a list of whole"),
        ('{"hidden_units": 64}', "hidden_units must be a list of whole"),
        ('{"hidden_units": [64.5]}', "hidden_units must be a list of whole"),
        (None, "No such file"),
    ],
)
def test_bad_hparams_are_named(parse, tmp_path, content, message):
    path = tmp_path / "best.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=rf"--hparams={path}.*{message}"):
        parse(f"--hparams={path}")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--image_size=8", r"image_size must be between 32 and 1024.*=8"),
        ("--global_batch_size=0", "global_batch_size must be between"),
        ("--hidden_units=a", "hidden_units must be numbers"),
        ("--hidden_units=0", "hidden_units must be positive"),
        ("--class_weights=some", "class_weights must be one of balanced"),
        ("--strategy=three", "strategy must be one of auto, one_device"),
        ("--num_folds=1", "num_folds must be 0 or at least 2"),
        ("--precision=half", "precision must be one of auto"),
        ("--head_learning_rate=0", "head_learning_rate must be between"),
        ("--data_dir=", "data_dir must be given"),
        ("--accumulation_steps=0", "accumulation_steps must be between"),
        ("--gradient_clip_norm=-1", "gradient_clip_norm must be between"),
        ("--learning_rate_scaling=cubic", "scaling must be one of sqrt"),
        ("--profile_steps=20,10", "profile_steps must be the first and"),
        ("--profile_steps=ten", "profile_steps must be the first and"),
    ],
)
def test_wrong_values_name_flag_and_remedy(parse, flag, message):
    with pytest.raises(ValueError, match=message):
        parse(flag)


def test_nothing_to_train_is_refused(parse):
    with pytest.raises(ValueError, match="nothing to train"):
        parse("--head_epochs=0", "--fine_tune_epochs=0")
    with pytest.raises(ValueError, match="fine_tune_epochs must be positive"):
        parse("--weights=none", "--fine_tune_epochs=0")


def test_config_survives_json_and_lists_differences():
    cfg = config.TrainConfig(data_dir="d", job_dir="j", hidden_units=(8,))
    assert config.TrainConfig.from_json(cfg.to_json(), "x") == cfg
    other = config.TrainConfig(
        data_dir="elsewhere", job_dir="j", hidden_units=(8,), seed=3
    )
    assert cfg.differences(other) == {"seed": (0, 3)}
    with pytest.raises(ValueError, match="another --job_dir"):
        config.TrainConfig.from_json('{"hidden_units": [], "a": 1}', "x")


def test_workers_share_what_a_continuation_may_change():
    cfg = config.TrainConfig(data_dir="d", job_dir="j")
    moved = dataclasses.replace(cfg, job_dir="k", strategy="multi_worker")
    assert moved.shared_json() == cfg.shared_json()
    # Workers whose loops differ in length would wait for each other for ever.
    longer = dataclasses.replace(cfg, steps_per_execution=3)
    assert longer.shared_json() != cfg.shared_json()
    assert longer.differences(cfg) == {}


@pytest.mark.parametrize(
    ("package", "name"), [("tf2onnx", "onnx"), ("ai_edge_litert", "litert")]
)
def test_format_without_its_extra_is_refused_before_training(
    parse, monkeypatch, package, name
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda n: None if n == package else find(n),
    )
    with pytest.raises(
        ValueError, match=rf"{package}: install .*'lightbox\[{name}\]'"
    ):
        pipeline.run(parse("--export_formats=saved_model,onnx,litert"))
    with pytest.raises(ValueError, match="--export_formats must be one of"):
        parse("--export_formats=onnx")
