"""How often drift is told where there is none, and how soon where there is.

    python -m tests.benchmarks.drift_alarms

Logs of normal scores beside those of an evaluation, looked at after every
answer; the change comes at once, or after 500 answers like the evaluation's.
"""

import numpy as np
from absl import app, flags

from trainer.evaluation import drift, martingale

FLAGS = flags.FLAGS
NUM_ANSWERS = 500
LEVEL = drift.FALSE_ALARMS
CHANGES = {
    "shift by 0.5 sd": (0.5, 1.0),
    "shift by 1 sd": (1.0, 1.0),
    "twice the spread": (0.0, 2.0),
    "half the spread": (0.0, 0.5),
}


def alarm(num_known, num_before, change, level, seed):
    """The answer that raised an alarm, counted from the change, or infinity."""
    generator = np.random.default_rng(seed)
    stream = generator.normal(size=num_before + NUM_ANSWERS)
    shift, scale = change
    stream[num_before:] = shift + scale * stream[num_before:]
    ranks = martingale.p_values(generator.normal(size=num_known), stream, seed)
    found = martingale.first_time(martingale.capital(ranks), level)
    return np.inf if found is None else found - num_before


def main(argv):
    del argv
    logs = range(FLAGS.num_logs)
    for known in (30, 200):
        times = [alarm(known, 0, (0, 1), LEVEL, seed) for seed in logs]
        share = np.mean(np.isfinite(times))
        print(f"{known} known, no change: alarms in {share:.1%}", flush=True)
        for name, change in CHANGES.items():
            for before in (0, 500):
                times = np.array(
                    [alarm(known, before, change, LEVEL / 3, s) for s in logs]
                )
                print(
                    f"{known} known, {name} after {before}: noticed in "
                    f"{np.mean((times > 0) & (times < np.inf)):.1%}, "
                    f"median after {np.median(times):.0f} answers",
                    flush=True,
                )


if __name__ == "__main__":
    flags.DEFINE_integer("num_logs", 400, "Of each kind.")
    app.run(main)
