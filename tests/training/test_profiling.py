import pytest
import tensorflow as tf

from trainer.training import profiling


@pytest.mark.parametrize(
    ("step", "num_steps", "limited"),
    [(0, 8, 8), (8, 8, 1), (9, 8, 8), (17, 8, 3), (20, 8, 8), (9, 20, 11)],
)
def test_inner_loops_end_where_the_profile_does(step, num_steps, limited):
    # All workers cut their loops, also those that do not profile.
    profiler = profiling.StepProfiler("", (10, 20))
    assert profiler.limit(step, num_steps) == limited


def test_profile_of_the_chosen_steps_is_written(tmp_path):
    profiler = profiling.StepProfiler(str(tmp_path), (2, 3))
    for step in range(5):
        profiler.update(step)
        tf.reduce_sum(tf.ones([10]))
        traces = list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))
        assert bool(traces) == (step >= 3)
    profiler.stop()
    assert len(list(tmp_path.glob("plugins/profile/*"))) == 1


def test_phase_that_ends_within_the_profile_writes_it(tmp_path):
    profiler = profiling.StepProfiler(str(tmp_path), (1, 100))
    profiler.update(0)
    profiler.stop()
    assert list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))
    profiler.stop()


def test_nothing_is_profiled_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    profiler = profiling.StepProfiler()
    assert profiler.limit(0, 8) == 8
    profiler.update(0)
    profiler.stop()
    assert not list(tmp_path.iterdir())
