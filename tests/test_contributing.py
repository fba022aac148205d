"""What CONTRIBUTING.md adds, added."""

import dataclasses
import inspect
import io
import re
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from tests.evaluation import samples
from tests.export import examples
from tests.samples import ROOT
from trainer import config, settings
from trainer.data.images import image
from trainer.evaluation import metrics
from trainer.export import serving_module, signature
from trainer.model import out_of_distribution

TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def run_snippet(heading, space, before="", indent=""):
    """Runs the code under a heading where `space` is known; returns names."""
    section = TEXT.split(f"\n## {heading}\n")[1]
    code = re.search(r"```python\n(.*?)```", section, re.S)[1]
    code = textwrap.indent(textwrap.dedent(code), indent)
    space = dict(space)
    exec(before.replace("SNIPPET", code) if before else code, space)
    return space


def test_setting():
    space = run_snippet(
        "Add a setting",
        vars(config),
        "@dataclasses.dataclass(frozen=True)\n"
        "class Grown(TrainConfig):\nSNIPPET",
        indent="    ",
    )
    directories = {"data_dir": "records", "job_dir": "run"}
    assert space["Grown"](**directories).keep_checkpoints == 3
    with pytest.raises(ValueError, match="between 1 and 1000"):
        space["Grown"](**directories, keep_checkpoints=0)
    *_, field = dataclasses.fields(space["Grown"])
    assert field.metadata["varies"] == settings.BETWEEN_STARTS


def test_metric(monkeypatch):
    function = inspect.getsource(metrics._class_statistics)
    assert function.count("return {") == 1
    space = run_snippet(
        "Add a metric",
        vars(metrics),
        function.replace("return {", "return {SNIPPET"),
    )
    changed = space["_class_statistics"]
    monkeypatch.setattr(metrics, "_class_statistics", changed)
    monkeypatch.setitem(metrics._LEAST, "informedness", (-1.0, 2))
    p = samples.random_predictions(41)
    found = metrics.compute_metrics(p, num_resamples=20).metrics
    expected = found["sensitivity"].value + found["specificity"].value - 1
    assert found["informedness"].value == pytest.approx(expected)
    low, high = found["informedness"].interval
    assert low < expected < high


def test_reader(monkeypatch):
    imports = "import io\nimport numpy as np\nSNIPPET"
    read = run_snippet("Add a reader", vars(image), imports)["read_images"]

    def encode(values):
        file = io.BytesIO()
        np.save(file, values)
        return file.getvalue()

    values = np.arange(35, dtype=np.int16).reshape(5, 7)
    [found] = read(encode(values), (17.0, 34.0))
    assert found.pixels.shape[:2] == (5, 7)
    assert found.pixels.min() == 0 and found.pixels.max() == 255
    for wrong in (values[0], values.astype("U1")):
        with pytest.raises(ValueError, match="must be numbers"):
            read(encode(wrong), None)
    monkeypatch.setattr(image, "MAX_PIXELS", 63)
    with pytest.raises(ValueError, match="8 x 8 pixels"):
        read(encode(np.zeros((8, 8), np.uint8)), None)


def test_signature(monkeypatch, classifier_model):
    monkeypatch.setattr(signature, "DESCRIPTOR", "descriptor", raising=False)
    space = run_snippet("Add a signature", vars(serving_module))
    module = examples.make_module(classifier_model, None)
    images = [examples.IMAGES[0], b"", examples.IMAGES[3]]
    answers = space["_describe"](module, tf.constant(images))
    pixels = examples.prepare([images[0], images[2]])
    describe = out_of_distribution.descriptor_model(classifier_model)
    expected = describe(pixels, training=False).numpy()
    found = answers["descriptor"].numpy()
    np.testing.assert_allclose(found[[0, 2]], expected, atol=1e-3)
    assert not found[1].any()
    assert answers[signature.VALID].numpy().tolist() == [True, False, True]
