"""How often 95 % intervals hold the truth, in simulated studies.

    python -m tests.benchmarks.interval_coverage

Patients have one to four images each, whose scores are alike. The truth of
each metric is that of a very large study.
"""

import argparse

import numpy as np

from trainer.evaluation import metrics, predictions, ranking

SHIFT = 1.2  # of the scores of the diseased
POINT = 0.6  # threshold on the probability
METRICS = (
    "roc_auc",
    "average_precision",
    "sensitivity",
    "specificity",
    "positive_predictive_value",
    "negative_predictive_value",
    "accuracy",
    "balanced_accuracy",
    "f1",
    "matthews_correlation",
    "log_loss",
    "brier",
)


def make_study(generator, num_patients: int, alike: float, prevalence: float):
    """Predictions of a study; `alike` is the correlation within a patient."""
    sizes = generator.integers(1, 5, num_patients)
    has = generator.random(num_patients) < prevalence
    shared = np.sqrt(alike) * generator.normal(size=num_patients)
    patients = np.repeat(np.arange(num_patients), sizes)
    scores = (shared + SHIFT * has)[patients]
    scores += np.sqrt(1 - alike) * generator.normal(size=len(patients))
    # The log odds that these scores give, were patients single images.
    logits = (
        SHIFT * scores - SHIFT**2 / 2 + np.log(prevalence / (1 - prevalence))
    )
    return predictions.Predictions(
        ids=[str(i) for i in range(len(patients))],
        groups=[str(patient) for patient in patients],
        labels=has[patients].astype(int),
        logits=np.stack([np.zeros(len(logits)), logits], axis=1),
    ).decide(("well", "sick"), 1, POINT)


def compute(study, num_resamples: int, seed: int = 0) -> dict:
    return metrics.compute_metrics(study, num_resamples, seed).metrics


def measure(num_patients, alike, prevalence, num_studies, seed):
    """Share of studies whose interval holds the truth, by metric."""
    generator = np.random.default_rng(seed)
    truth = compute(make_study(generator, 200_000, alike, prevalence), 1)
    held = {name: [] for name in (*METRICS, "roc_auc by DeLong")}
    for study_seed in range(num_studies):
        study = make_study(generator, num_patients, alike, prevalence)
        found = compute(study, 500, study_seed)
        intervals = {name: found[name].interval for name in METRICS}
        intervals["roc_auc by DeLong"] = ranking.delong_interval(
            study.labels == 1, study.probabilities[:, 1]
        )
        for name, interval in intervals.items():
            if interval is not None:
                value = truth[name.split()[0]].value
                held[name].append(interval[0] <= value <= interval[1])
    return {name: np.mean(values) for name, values in held.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_studies", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = [
        (200, 0.7, 0.5),
        (200, 0.7, 0.2),
        (200, 0.0, 0.5),
        (1000, 0.7, 0.2),
    ]
    columns = []
    for num_patients, alike, prevalence in settings:
        columns.append(
            measure(
                num_patients,
                alike,
                prevalence,
                options.num_studies,
                options.seed,
            )
        )
    heads = [f"{n} pat., r={a:g}, {p:.0%} sick" for n, a, p in settings]
    print(
        f"{'share of intervals that hold the truth':40}"
        + "".join(f"{h:>26}" for h in heads)
    )
    for name in columns[0]:
        print(f"{name:40}" + "".join(f"{c[name]:26.3f}" for c in columns))


if __name__ == "__main__":
    main()
