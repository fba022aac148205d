import os
import signal

import pytest

from trainer import startup
from trainer.training import preemption


@pytest.fixture
def watch():
    previous = signal.getsignal(signal.SIGTERM)
    yield preemption.SigtermWatch()
    signal.signal(signal.SIGTERM, previous)


def test_sigterm_outside_of_training_ends_the_process_at_once(watch):
    with pytest.raises(preemption.Preempted) as stopped:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == startup.PREEMPTED == 42


def test_sigterm_while_training_is_left_to_the_loop(watch):
    steps = []
    # One that the loop does not ask about any more is not lost.
    with pytest.raises(preemption.Preempted), watch.deferred():
        assert not watch()
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch()
        steps.append("after the signal")
    assert steps
