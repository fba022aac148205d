"""Does something beside the anatomy give the label away?

If the size of an image alone predicts its class, a network learns the size.
Each cue is given to a small decision tree; what it predicts for images of
groups that it has not seen is scored.
"""

import math
from collections.abc import Sequence

import numpy as np

from trainer.data.build import scan

NUM_FOLDS = 5
# Enough for an interval of one percent; more would only take time.
MAX_IMAGES = 20_000
# A cue is reported as a shortcut if all of its interval lies above this.
SUSPICIOUS_AUC = 0.6

_NUMBERS = {
    "image size": ("width", "height"),
    "file size": ("num_bytes",),
    "compression quality": ("quality",),
    "bit depth": ("bit_depth",),
    "border brightness": ("border_brightness",),
    "mean brightness": ("mean_brightness",),
    "colour": ("channels",),
}


def sample_images(
    facts: Sequence[scan.ImageFacts],
) -> Sequence[scan.ImageFacts]:
    """The images to measure on: at most `MAX_IMAGES`, drawn at random."""
    if len(facts) <= MAX_IMAGES:
        return facts
    chosen = np.random.default_rng(0).choice(
        len(facts), MAX_IMAGES, replace=False
    )
    return [facts[i] for i in chosen]


def measure_shortcuts(
    facts: Sequence[scan.ImageFacts], class_names: Sequence[str]
) -> list[dict]:
    """Cross-validated AUC of every cue, the strongest first.

    Returns:
        Dictionaries of `cue`, `class_name` (the class that the cue tells best
        from the others), `auc`, `low` and `high` (95 % interval) and
        `suspicious`; none if the set is too small to cross-validate.
    """
    labels = np.array([class_names.index(fact.class_name) for fact in facts])
    names = np.array([fact.group for fact in facts])
    groups = np.unique(names, return_inverse=True)[1]
    smallest = min(
        len(set(groups[labels == label])) for label in range(len(class_names))
    )
    if smallest < NUM_FOLDS:
        return []
    folds = _make_folds(labels, groups)
    measured = []
    for cue, columns in _cue_columns(facts).items():
        scores = _cross_validate(columns, labels, folds)
        measured.append(_describe(cue, scores, labels, class_names))
    return sorted(measured, key=lambda row: (-row["auc"], row["cue"]))


def _cue_columns(facts: Sequence[scan.ImageFacts]) -> dict[str, np.ndarray]:
    columns = {
        cue: np.array([[getattr(f, n) for n in names] for f in facts], float)
        for cue, names in _NUMBERS.items()
    }
    width, height = columns["image size"].T
    columns["aspect"] = (width / height)[:, np.newaxis]
    formats = sorted({fact.source_format for fact in facts})
    columns["file format"] = np.array(
        [[fact.source_format == name for name in formats] for fact in facts],
        np.float64,
    )
    return columns


def _make_folds(
    labels: np.ndarray, groups: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Indices to fit to and indices to score, for each fold."""
    from sklearn import model_selection

    folds = model_selection.StratifiedGroupKFold(
        NUM_FOLDS, shuffle=True, random_state=0
    )
    return list(folds.split(labels, labels, groups))


def _cross_validate(
    columns: np.ndarray,
    labels: np.ndarray,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Scores of each class, float64 `[num_images, num_classes]`."""
    from sklearn import tree

    scores = np.zeros((len(labels), labels.max() + 1))
    for train, held_out in folds:
        classifier = tree.DecisionTreeClassifier(
            min_samples_leaf=max(5, len(train) // 50),
            class_weight="balanced",
            random_state=0,
        )
        classifier.fit(columns[train], labels[train])
        scores[np.ix_(held_out, classifier.classes_)] = (
            classifier.predict_proba(columns[held_out])
        )
    # The half that a cue without information gives is off by the last bit,
    # to another side in each fold.
    return scores.round(9)


def _describe(
    cue: str, scores: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> dict:
    from sklearn import metrics

    # Of two classes, the second says all.
    labels_of_cue = [1] if len(class_names) == 2 else range(len(class_names))
    aucs = {
        label: float(metrics.roc_auc_score(labels == label, scores[:, label]))
        for label in labels_of_cue
    }
    label = max(aucs, key=aucs.get)
    auc = aucs[label]
    positives = int(np.count_nonzero(labels == label))
    error = _standard_error(auc, positives, len(labels) - positives)
    low, high = max(auc - 1.96 * error, 0.0), min(auc + 1.96 * error, 1.0)
    return {
        "cue": cue,
        "class_name": class_names[label],
        "auc": round(auc, 3),
        "low": round(low, 3),
        "high": round(high, 3),
        "suspicious": low > SUSPICIOUS_AUC,
    }


def _standard_error(auc: float, positives: int, negatives: int) -> float:
    """Of an AUC: Hanley and McNeil, "The Meaning and Use of the Area under a
    Receiver Operating Characteristic (ROC) Curve", Radiology 143, 1982.
    """
    first = auc / (2 - auc)
    second = 2 * auc * auc / (1 + auc)
    variance = (
        auc * (1 - auc)
        + (positives - 1) * (first - auc * auc)
        + (negatives - 1) * (second - auc * auc)
    ) / (positives * negatives)
    return math.sqrt(max(variance, 0.0))
