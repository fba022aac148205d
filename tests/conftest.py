"""What the tests share: two CPU devices, tiny records, models built once."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# Two processes share the tests and the cores.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import hypothesis
import keras
import numpy as np
import pytest

from tests import quick
from tests.cloud_storage import bucket_name, cloud, cloud_server  # noqa: F401
from tests.samples import IMAGE_SIZE, make_pixels, write_records

quick.set_up(num_devices=2)
# The same few examples every time, however slow the machine is.
hypothesis.settings.register_profile(
    "tests", max_examples=25, deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile("tests")
# Of bugs that were put in nobody wants to see the smallest example.
hypothesis.settings.register_profile(
    "mutants",
    hypothesis.settings.get_profile("tests"),
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)


@pytest.fixture(scope="session")
def tiny_records(tmp_path_factory) -> pathlib.Path:
    """Directory of records: 22 training, 9 validation and 7 test images."""
    directory = tmp_path_factory.mktemp("records")
    write_records(directory, {"train": 22, "validation": 9, "test": 7})
    return directory


@pytest.fixture(scope="session")
def classifier_model():
    """An untrained two-class classifier of one channel at 32 px."""
    from trainer.data import preprocessing
    from trainer.model import classifier

    keras.utils.set_random_seed(0)
    head = classifier.build_head(2, (8,), 0.3)
    model = classifier.build_classifier(IMAGE_SIZE, 1, head)
    pixels = [make_pixels(50 + i, i % 2)[..., np.newaxis] for i in range(24)]
    pixels = preprocessing.resize_image(np.stack(pixels), IMAGE_SIZE)
    return quick.normalize(model, pixels)


@pytest.fixture
def few_kinds():
    """The whole backbone takes a minute to trace twice."""
    with quick.few_kinds():
        yield


def pytest_make_parametrize_id(val):
    """Names no test by bytes: those of gzip tell the time, and two processes
    that share the tests must give them the same names."""
    return f"{len(val)}_bytes" if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items):
    """Files with slow tests come first: none is left alone at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
