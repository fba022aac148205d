"""An exported version of the two-class classifier, and its signatures."""

import pytest
import tensorflow as tf

from tests.conftest import IMAGE_SIZE, encode, make_pixels
from trainer.export import saved_model, serving_module, warmup
from trainer.model import out_of_distribution

CLASS_NAMES = ("no_tumor", "tumor")
TEMPERATURE = 1.7
OPERATING_POINT = 0.4
IMAGES = [encode(make_pixels(i, i % 2)) for i in range(4)]


def make_detector(model):
    """Knows twelve images; its threshold is set on eight others."""
    train, validation = (
        [encode(make_pixels(i, i % 2)) for i in chosen]
        for chosen in (range(100, 112), range(200, 208))
    )
    return out_of_distribution.fit(
        out_of_distribution.describe_images(model, train),
        out_of_distribution.describe_images(model, validation),
        out_of_distribution.stage_sizes(model),
    )


@pytest.fixture(scope="session")
def detector(classifier_model):
    return make_detector(classifier_model)


@pytest.fixture(scope="session")
def module(classifier_model, detector):
    return serving_module.ServingModule(
        classifier_model,
        class_names=CLASS_NAMES,
        positive_index=1,
        temperature=TEMPERATURE,
        operating_point=OPERATING_POINT,
        detector=detector,
    )


@pytest.fixture(scope="session")
def exported(module, tmp_path_factory):
    """Path of version 1 of the two-class classifier."""
    return saved_model.export_version(
        module,
        str(tmp_path_factory.mktemp("export")),
        assets={"dataset.json": b"{}"},
        warmup=warmup.make_warmup_file(IMAGES, "brain_mri", IMAGE_SIZE, 1),
        facts={"model": "test"},
    )


@pytest.fixture(scope="session")
def signatures(exported):
    """Name -> function of its one input, giving NumPy arrays."""
    functions = tf.saved_model.load(exported).signatures

    def make_call(function):
        (name,) = function.structured_input_signature[1]

        def call(values):
            outputs = function(**{name: tf.constant(values)})
            return {key: tensor.numpy() for key, tensor in outputs.items()}

        return call

    # `functions` lives as long as what is made of it.
    calls = {name: make_call(f) for name, f in functions.items()}
    return calls | {"functions": functions}
