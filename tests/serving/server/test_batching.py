"""What is asked at the same time is computed together, and nobody notices."""

import shutil
import threading
from concurrent import futures

import pytest
import tensorflow as tf

from serving.server import batching
from serving.server import saved_models as loader
from tests.serving import brightness
from tests.serving.helpers import wait_for

LEVELS = [204, 51, 102, 238, 17, 153, 85]


@pytest.fixture
def one_core(monkeypatch):
    monkeypatch.setattr(batching.parallel, "default_num_workers", lambda: 1)


class Held:
    """A function of images whose first call waits for `released`."""

    def __init__(self, function):
        self.function, self.sizes = function, []
        self.released = threading.Event()

    def __call__(self, image_bytes):
        self.sizes.append(len(image_bytes))
        if len(self.sizes) == 1:
            assert self.released.wait(10)
        return self.function(image_bytes)


def ask_at_once(held, requests):
    """Returns the futures of requests that wait while the first is computed."""
    batched = batching.Batched(held)
    with futures.ThreadPoolExecutor(len(requests)) as executor:
        asked = []
        for request in requests:
            asked.append(executor.submit(batched, tf.constant(request)))
            # In their order, once the first is being computed.
            wait_for(
                lambda: held.sizes and len(batched._waiting) == len(asked) - 1
            )
        held.released.set()
    return asked


def test_images_that_wait_are_computed_together(one_core):
    function = brightness.build_signatures(0.5)["explain"]
    held = Held(function)
    images = [brightness.encode_image(level) for level in LEVELS]
    images[2] = b"no image"
    asked = ask_at_once(held, [[image] for image in images])
    assert held.sizes == [1, 4, 2]
    for image, each in zip(images, asked, strict=True):
        alone, answer = function(tf.constant([image])), each.result()
        assert alone.keys() == answer.keys()
        for name, values in alone.items():
            assert answer[name].dtype == values.dtype
            assert answer[name].numpy().tolist() == values.numpy().tolist()


def test_error_is_that_of_its_own_request(one_core):
    def fail_on_x(image_bytes):
        if b"x" in image_bytes.numpy():
            raise tf.errors.InvalidArgumentError(None, None, "x")
        return {"y": tf.strings.length(image_bytes)}

    held = Held(fail_on_x)
    asked = ask_at_once(held, [[b"first"], [b"ab"], [b"x"], [b"abc"]])
    assert held.sizes == [1, 3, 1, 1, 1]
    with pytest.raises(tf.errors.InvalidArgumentError, match="x"):
        asked.pop(2).result()
    answers = [each.result()["y"].numpy().tolist() for each in asked]
    assert answers == [[5], [2], [3]]


@pytest.mark.parametrize(
    "request_", [[b"ab", b"c"], [], [b"a" * (batching.MAX_BYTES + 1)]]
)
def test_other_requests_wait_for_nobody(one_core, request_):
    held = Held(lambda images: {"y": tf.strings.length(images)})
    batched = batching.Batched(held)
    with futures.ThreadPoolExecutor(1) as executor:
        first = executor.submit(batched, tf.constant([b"first"]))
        wait_for(lambda: held.sizes)
        answer = batched(tf.constant(request_, tf.string))["y"].numpy()
        assert answer.tolist() == [len(image) for image in request_]
        assert not first.done()
        held.released.set()


def test_only_images_of_an_export_are_merged(saved_models, tmp_path):
    """Another SavedModel may make one answer of all its images."""

    def find_merged():
        functions = loader.load(str(tmp_path / "1"), 1).functions
        return [n for n, f in functions.items() if type(f) is batching.Batched]

    shutil.copytree(saved_models / "1", tmp_path / "1")
    assert sorted(find_merged()) == ["explain", "serving_default"]
    (tmp_path / "1" / "assets" / "dataset.json").unlink()
    assert not find_merged()
