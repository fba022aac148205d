"""A disk that is full is told with the path."""

import contextlib
import resource
import signal

import pytest

from trainer.data import sample_data
from trainer.export import saved_model
from trainer.storage import paths
from tuning import trial_log


@pytest.fixture
def full_disk():
    """No file can be longer than some bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    @contextlib.contextmanager
    def limited(num_bytes=100):
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    yield limited
    signal.signal(signal.SIGXFSZ, ignored)


def append_trial(path, _):
    log = trial_log.TrialLog(path)
    log.append(trial_log.EndedTrial("1", {}, 1.0, message="x" * 500))


def draw_samples(path, _):
    sample_data.make_sample_data(path, 4, 64)


def save_keras(path, model):
    saved_model.save_keras(model, f"{path}/x.keras")


@pytest.mark.parametrize(
    ("write", "named"),
    [
        (lambda path, _: paths.write_atomically(f"{path}/x", "x" * 999), "/x"),
        (append_trial, "/trials.jsonl"),
        (draw_samples, "/no_tumor/patient_0001_slice_00.png"),
        (save_keras, "/x.keras"),
    ],
)
def test_full_disk_is_told_with_the_path(
    tmp_path, full_disk, classifier_model, write, named
):
    with full_disk(), pytest.raises(OSError) as raised:
        write(str(tmp_path), classifier_model)
    assert str(raised.value) == (
        f"{tmp_path}{named} cannot be written (File too large); free some "
        "space there, or choose another directory."
    )
    assert raised.value.errno in paths.DISK_FULL
