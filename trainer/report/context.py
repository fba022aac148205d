"""What a report knows beside predictions."""

import dataclasses
from collections.abc import Callable

import numpy as np

from trainer.report import data_audit

PREVALENCES = (0.01, 0.05, 0.2)


@dataclasses.dataclass(frozen=True)
class Context:
    """What is known beside predictions; what is absent is left out.

    Attributes:
        prevalences: at which predictive values are reported.
        baselines: from `baselines.make_baselines`.
        columns: column -> split -> value per image, in the order of the
            predictions; figures are also given for the images of each value.
        train_groups: groups of the training images; where leaks were let in,
            figures are also given without the images of these groups.
        read_images: returns the encoded images of a split at indices in the
            order of its predictions; for the galleries.
        explain: returns a picture of the evidence for a class in each of some
            encoded images, for the galleries.
        out_of_distribution: split -> score per image, above 1 where it is
            unlike the training set.
        audit: of the data.
        starts: of the run, from `run.json`.
        cross_validation: from `cross_validation.summarize`.
        comparison: from `comparison.compare`, with `this`, `other` and
            `verdict`.
        subject: which model was judged on which images, where that is not the
            model of the run on its own data.
        notes: more to know before the figures.
    """

    prevalences: tuple[float, ...] = PREVALENCES
    baselines: dict[str, dict[str, np.ndarray]] | None = None
    columns: dict[str, dict[str, list[str]]] | None = None
    train_groups: frozenset[str] = frozenset()
    read_images: Callable[[str, list[int]], list[bytes]] | None = None
    explain: Callable[[list[bytes], np.ndarray], list[bytes]] | None = None
    out_of_distribution: dict[str, np.ndarray] | None = None
    audit: data_audit.Audit | None = None
    starts: tuple[dict, ...] = ()
    cross_validation: dict | None = None
    comparison: dict | None = None
    subject: str = ""
    notes: tuple[str, ...] = ()
