"""An exported version of the two-class classifier, and its signatures."""

import pytest
import tensorflow as tf

from tests.commands import run  # noqa: F401
from tests.export import examples
from tests.samples import IMAGE_SIZE, write_records
from trainer.export import saved_model, signature, warmup


@pytest.fixture(scope="session")
def tiny_records(tmp_path_factory):
    """9 validation and 7 test images, whose first class is positive."""
    directory = tmp_path_factory.mktemp("records")
    positive_class = examples.CLASS_NAMES[examples.POSITIVE]
    write_records(directory, {"validation": 9, "test": 7}, 2, positive_class)
    return directory


@pytest.fixture(scope="session")
def detector(classifier_model):
    return examples.make_detector(classifier_model)


@pytest.fixture(scope="session")
def module(classifier_model, detector):
    return examples.make_module(classifier_model, detector)


@pytest.fixture(scope="session")
def exported(module, tiny_records, tmp_path_factory):
    """Path of version 1 of the two-class classifier."""
    return saved_model.export_version(
        module,
        str(tmp_path_factory.mktemp("export")),
        assets={"dataset.json": (tiny_records / "dataset.json").read_bytes()},
        extra={
            signature.WARMUP_FILE: warmup.make_warmup_file(
                "classifier", IMAGE_SIZE, 1
            ),
        },
        facts={
            "operating_point": examples.OPERATING_POINT,
            "sets": {"thresholds": examples.SET_THRESHOLDS},
            "study": {"rule": examples.STUDY[0]},
        },
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
