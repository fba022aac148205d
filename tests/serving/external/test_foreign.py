"""SavedModels of others, whose answers are known without them."""

import numpy as np
import pytest
import tensorflow as tf

from serving.external import exported, foreign, judge
from tests.samples import encode
from trainer.data import input_pipeline, preprocessing

NAMES = ("dark", "bright")
LEVELS = np.array([10, 90, 140, 250], np.uint8)
IMAGES = [encode(np.full((8, 8), level, np.uint8)) for level in LEVELS]


@pytest.fixture
def save(tmp_path):
    def save(call, shape=(None, 4, 4, 1), dtype=tf.float32):
        module = tf.Module()
        spec = tf.TensorSpec(shape, dtype, "x")
        module.call = tf.function(call, input_signature=[spec])
        signatures = {"serving_default": module.call}
        tf.saved_model.save(module, str(tmp_path / "m"), signatures)
        return str(tmp_path / "m")

    return save


def mean(pixels):
    pixels = tf.cast(pixels, tf.float32)
    return tf.reduce_mean(pixels, axis=[1, 2, 3])[:, tf.newaxis]


def ask(path, **meaning):
    model = exported.load(path, foreign.Meaning(NAMES, **meaning))
    return model, model.ask(IMAGES)


def test_pixels_come_in_the_range_of_the_model(save):
    path = save(lambda x: {"p": (mean(x) + 1) / 2})
    model, answers = ask(path, pixel_range=(-1.0, 1.0), operating_point=0.4)
    scores = LEVELS / 255
    np.testing.assert_allclose(answers.scores, scores, atol=1e-6)
    expected = np.stack([1 - scores, scores], axis=1)
    np.testing.assert_allclose(answers.probabilities, expected, atol=1e-6)
    assert answers.labels == ["dark", "dark", "bright", "bright"]
    assert answers.decisions.tolist() == [False, False, True, True]
    assert (model.class_names, model.operating_point) == (NAMES, 0.4)


def test_integer_pixels_in_colour(save):
    path = save(lambda x: {"p": mean(x) / 255}, [None, 4, 4, 3], tf.uint8)
    np.testing.assert_allclose(ask(path)[1].scores, LEVELS / 255, atol=1e-6)


@pytest.mark.parametrize("num_outputs", [1, 2])
def test_logits_become_probabilities(save, num_outputs):
    def call(x):
        logits = mean(x) / 100
        both = tf.concat([tf.zeros_like(logits), logits], axis=1)
        return {"z": both[:, -num_outputs:]}

    path = save(call)
    expected = 1 / (1 + np.exp(-LEVELS.astype(float) / 100))
    answers = ask(path, outputs="logits")[1]
    np.testing.assert_allclose(answers.scores, expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"no probabilities.*logits"):
        ask(path)


def test_encoded_images_are_decoded_by_the_model(save):
    def call(images):
        def decode(image):
            return tf.cast(tf.io.decode_png(image, channels=1), tf.float32)

        pixels = tf.map_fn(decode, images, tf.TensorSpec([8, 8, 1], tf.float32))
        p = mean(pixels) / 255
        return {"p": tf.concat([1 - p, p], axis=1)}

    answers = ask(save(call, [None], tf.string))[1]
    np.testing.assert_allclose(answers.scores, LEVELS / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("names", "shape", "outputs", "message"),
    [
        ((), [None, 4, 4, 1], ["p"], "say with --class_names"),
        (NAMES, [None, 4, 4], ["p"], r"It has x: float32 \(None, 4, 4\)"),
        (NAMES, [None, 4, 4, 1], ["p", "q"], "one output.* It has p, q"),
        (("a", "b", "c"), [None, 4, 4, 1], ["p"], "1 outputs for the 3"),
    ],
)
def test_model_that_cannot_be_asked_is_one_sentence(
    save, names, shape, outputs, message
):
    path = save(
        lambda x: {name: tf.reshape(x, [4, -1])[:, :1] for name in outputs},
        shape,
    )
    with pytest.raises(ValueError, match=message):
        exported.load(path, foreign.Meaning(names)).ask(IMAGES)


def test_record_set_is_judged_by_its_answers(save, tiny_records):
    # The brightest spot tells some tumors.
    path = save(lambda x: {"p": tf.reduce_max(x, [1, 2])}, [None, 32, 32, 1])
    meaning = foreign.Meaning(
        ("no_tumor", "tumor"), pixel_range=(0.0, 1.0), operating_point=0.9
    )
    evaluation = judge.evaluate(
        [exported.load(path, meaning)], str(tiny_records), splits=["train"]
    )
    findings = evaluation.findings
    assert findings.operating_point == 0.9
    info = input_pipeline.read_dataset_info(str(tiny_records))
    labels = input_pipeline.read_index(str(tiny_records), info)["train"].labels
    files = input_pipeline.split_files(str(tiny_records), info, "train")
    called = [
        preprocessing.prepare_image(image, 32, 1).numpy().max() >= 0.9 * 255
        for image in input_pipeline.iterate_encoded(files)
    ]
    expected = np.zeros((2, 2), int)
    np.add.at(expected, (labels, np.array(called, int)), 1)
    assert findings.split.confusion_matrix == expected.tolist()


def test_one_signature_is_the_one_and_of_two_none_is():
    with pytest.raises(ValueError, match=r"m has the signatures a, b: one"):
        foreign.wrap("m", {"a": mean, "b": mean}, foreign.Meaning(NAMES))
    with pytest.raises(ValueError, match=r"m has the signatures none: one"):
        foreign.wrap("m", {}, foreign.Meaning(NAMES))
