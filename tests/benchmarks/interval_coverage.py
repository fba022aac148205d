"""How often 95 % intervals hold the truth, in simulated studies.

    python -m tests.benchmarks.interval_coverage

Patients have one to four images each, whose scores are alike. The truth of
each metric is that of a very large study. A rival that knows half as much is
the baseline that the model leads, and another one knows nothing.
"""

import argparse

import numpy as np

from trainer.evaluation import baselines, metrics, predictions, ranking

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
# Patients, how many of them are sick (drawn, unless it is an integer), and the
# correlation of scores within a patient.
SETTINGS = (
    *((45 + sick, sick, 0.7) for sick in (1, 2, 3, 5, 10, 20)),
    (4, 2, 0.7),
    (10, 5, 0.7),
    (20, 10, 0.7),
    (200, 0.5, 0.7),
    (200, 0.2, 0.7),
    (200, 0.5, 0.0),
    (1000, 0.2, 0.7),
)


def make_study(generator, num_patients: int, sick, alike: float):
    """Predictions of a study, and the scores of two baselines."""
    prevalence = sick
    if isinstance(sick, int):
        prevalence = sick / num_patients
        has = np.arange(num_patients) < sick
    else:
        has = generator.random(num_patients) < sick
    sizes = generator.integers(1, 5, num_patients)
    patients = np.repeat(np.arange(num_patients), sizes)

    def draw(shift):
        scores = np.sqrt(alike) * generator.normal(size=num_patients)
        scores = (scores + shift * has)[patients]
        own = generator.normal(size=len(patients))
        return scores + np.sqrt(1 - alike) * own

    # The log odds that these scores give, were patients single images.
    logits = SHIFT * draw(SHIFT) - SHIFT**2 / 2
    logits += np.log(prevalence / (1 - prevalence))
    study = predictions.make_predictions(
        [str(i) for i in range(len(patients))],
        [str(patient) for patient in patients],
        has[patients],
        logits[:, np.newaxis],
    ).decide(("well", "sick"), 1, min(POINT, prevalence))
    rival, nothing = draw(SHIFT / 2), np.zeros(len(patients))
    return study, {
        "lead over a rival": np.stack([nothing, rival], axis=1),
        "lead over chance": np.stack([nothing, nothing], axis=1),
    }


def judge(study, rivals, num_resamples: int, seed: int = 0) -> dict:
    """Value and interval of each figure."""
    found = metrics.compute_metrics(study, num_resamples, seed).metrics
    figures = {
        name: (found[name].value, found[name].interval) for name in METRICS
    }
    delong = ranking.delong_interval(
        study.labels == 1, study.probabilities[:, 1]
    )
    figures["roc_auc by DeLong"] = found["roc_auc"].value, delong
    compared = baselines.compare(study, rivals, num_resamples, seed)
    for name, lead in compared.items():
        figures[name] = lead.difference, lead.difference_interval
    return figures


def measure(num_patients, sick, alike, num_studies, seed):
    """Share of intervals that hold the truth, and their mean width."""
    generator = np.random.default_rng(seed)
    scale = 100_000 // num_patients
    many = sick * scale if isinstance(sick, int) else sick
    large = make_study(generator, num_patients * scale, many, alike)
    truth = judge(*large, 1)
    held = {name: [] for name in truth}
    for study_seed in range(num_studies):
        study = make_study(generator, num_patients, sick, alike)
        for name, (_, interval) in judge(*study, 500, study_seed).items():
            if interval is not None:
                low, high = interval
                is_held = low <= truth[name][0] <= high
                held[name].append((is_held, high - low))
    return {
        name: np.mean(values, axis=0) if len(values) > num_studies / 2 else None
        for name, values in held.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_studies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("share of intervals that hold the truth (mean width)")
    for setting in SETTINGS:
        patients, sick, alike = setting
        print(f"\n{patients} patients, {sick:.3g} sick, r={alike:g}")
        found = measure(*setting, options.num_studies, options.seed)
        for name, figures in found.items():
            text = "not computed"
            if figures is not None:
                text = f"{figures[0]:.3f} ({figures[1]:.3f})"
            print(f"  {name:30}{text}", flush=True)


if __name__ == "__main__":
    main()
