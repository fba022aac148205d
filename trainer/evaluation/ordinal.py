"""Classes that have an order: how far off are decisions?"""

import numpy as np

from trainer.evaluation.ranking import ratio

SORTED = "sorted"


def parse_order(text: str, class_names: tuple[str, ...]) -> tuple[int, ...]:
    """The rank of each class by `--ordinal`; none if that is empty.

    Args:
        text: "sorted", as the class names are, or all of them in order, with
            commas between.
        class_names: of the data set.

    Raises:
        ValueError: if the names are others, or too few to have an order.
    """
    if not text:
        return ()
    names = class_names if text == SORTED else tuple(text.split(","))
    if sorted(names) != sorted(class_names) or len(names) < 3:
        raise ValueError(
            "--ordinal must be sorted, or name all classes from the least to "
            "the most, at least three: the data set has "
            f"{','.join(class_names)}. Received: {text!r}."
        )
    return tuple(names.index(name) for name in class_names)


def distances(ranks: tuple[int, ...]) -> np.ndarray:
    """Steps between the ranks of two classes, int `[classes, classes]`."""
    of_class = np.asarray(ranks)
    return np.abs(of_class[:, np.newaxis] - of_class)


def quadratic_kappa(
    confusion: np.ndarray, ranks: tuple[int, ...]
) -> np.ndarray:
    """Agreement beyond chance, where a mistake counts as its distance squared.

    Cohen, 1968, "Weighted kappa: Nominal scale agreement with provision for
    scaled disagreement or partial credit".

    Args:
        confusion: `[resamples, classes, classes]`, rows are true.
        ranks: of the classes.

    Returns:
        float64 `[resamples]`, at most 1; NaN where all is one class.
    """
    costs = distances(ranks) ** 2
    true, decided = confusion.sum(axis=2), confusion.sum(axis=1)
    observed = np.sum(confusion * costs, axis=(1, 2)) * true.sum(axis=1)
    by_chance = np.einsum("ri,ij,rj->r", true, costs, decided)
    return 1 - ratio(observed, by_chance)
