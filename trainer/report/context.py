"""What a report knows beside predictions."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from trainer.evaluation import results
from trainer.evaluation.predictions import Decided
from trainer.report import data_audit

PREVALENCES = (0.01, 0.05, 0.2)


@dataclasses.dataclass(frozen=True)
class SplitFacts:
    """What is known of the images of a split, in the order of its predictions.

    Attributes:
        baselines: from `baselines.make_baselines`.
        columns: values by column; figures are also given for the images of
            each value.
        unlikeness: scores, above 1 where an image is unlike the training set.
    """

    baselines: Mapping[str, np.ndarray] = dataclasses.field(
        default_factory=dict
    )
    columns: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)
    unlikeness: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Context:
    """What is known beside predictions; what is absent is left out.

    Attributes:
        prevalences: at which predictive values are reported.
        splits: what is known of the images of each split.
        train_groups: groups of the training images; where leaks were let in,
            figures are also given without the images of these groups.
        read_images: returns the encoded images of a split at indices in the
            order of its predictions; for the galleries.
        explain: returns a picture of the evidence for a class in each of some
            encoded images, for the galleries.
        audit: of the data.
        starts: of the run, from `run.json`.
        cross_validation: of models that were trained as this one.
        out_of_fold: what these said of the images that they had not seen; its
            doubtful labels are told.
        read_by_id: returns the encoded images of some ids, for the gallery of
            these.
        comparison: with another model.
        subject: which model was judged on which images, where that is not the
            model of the run on its own data.
        notes: more to know before the figures.
        ranks: of the classes, if they have an order, else none.
    """

    prevalences: tuple[float, ...] = PREVALENCES
    splits: Mapping[str, SplitFacts] = dataclasses.field(default_factory=dict)
    train_groups: frozenset[str] = frozenset()
    read_images: Callable[[str, list[int]], list[bytes]] | None = None
    explain: Callable[[list[bytes], np.ndarray], list[bytes]] | None = None
    audit: data_audit.Audit | None = None
    starts: tuple[dict, ...] = ()
    cross_validation: results.CrossValidation | None = None
    out_of_fold: Decided | None = None
    read_by_id: data_audit.ReadPictures | None = None
    comparison: results.Comparison | None = None
    subject: str = ""
    notes: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()

    def of(self, split: str) -> SplitFacts:
        """What is known of the images of a split, if only nothing."""
        return self.splits.get(split, SplitFacts())
