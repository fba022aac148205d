"""What evaluation finds: the types that `metrics.json` is written from.

A field without a default is always in the file; one with a default is left out
where it is None. Intervals are 95 % intervals.
"""

import dataclasses

Interval = tuple[float, float]

BOOTSTRAP, WILSON = "bootstrap over groups", "Wilson"
WILSON_BY_BOOTSTRAP = "Wilson, with the bootstrap's variance"
WILSON_FOR_GROUPS = "Wilson, for groups"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure.

    Attributes:
        value: None where it cannot be computed.
        interval: None where there is none.
        reason: why there is no value or no interval.
        method: `BOOTSTRAP`: percentiles of 1000 resamples of whole groups,
            expanded as Student's interval is for few groups of the smallest
            class; `WILSON`: for a proportion, images of groups of their own;
            `WILSON_FOR_GROUPS`: with the effective number of images;
            `WILSON_BY_BOOTSTRAP`: with the number that gives the variance of
            the resamples (`intervals.score_interval`).
    """

    value: float | None
    interval: Interval | None
    reason: str | None = None
    method: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proportion(Metric):
    """A proportion of images.

    Attributes:
        n_effective: images, for Wilson's interval.
        n: images that it is of.
        n_groups: groups that it is of.
    """

    n_effective: float | None = None
    n: int | None = None
    n_groups: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Area(Metric):
    """A ROC AUC of one class.

    DeLong's interval takes images as independent, and needs ten of each class.
    """

    delong_interval: Interval | None


@dataclasses.dataclass(frozen=True)
class NoBaseline:
    """A baseline whose figure cannot be computed, and why."""

    value: None
    reason: str
    beaten: None


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A guess that knows no medicine, and the model's lead.

    Attributes:
        metric: name of the figure that both are compared by.
        value: of the baseline.
        difference: model - baseline.
        difference_interval: of that.
        beaten: whether that interval lies above zero.
    """

    metric: str
    value: float
    difference: float
    difference_interval: Interval | None
    beaten: bool


@dataclasses.dataclass(frozen=True)
class BaselineOfTwo(Baseline):
    """For two classes also DeLong's, which takes images as independent."""

    delong_p_value: float | None


Baselines = dict[str, Baseline | NoBaseline]


@dataclasses.dataclass(frozen=True)
class Subgroup:
    """The images of a split that share a value of a column.

    Attributes:
        num_images: that were judged.
        num_groups: patients or duplicate groups.
        metrics: of them, by name.
        below: names of metrics whose interval lies below the whole split's
            figure.
        baselines: for kinship with training alone.
    """

    num_images: int
    num_groups: int
    metrics: dict[str, Metric]
    below: list[str]
    baselines: Baselines | None = None


@dataclasses.dataclass(frozen=True)
class Unlikeness:
    """Images with a finite score; above 1 one is unlike the training set."""

    num_images: int
    num_flagged: int
    median_score: float | None


@dataclasses.dataclass(frozen=True)
class ClassSets:
    """The prediction sets of images of a class.

    Attributes:
        threshold: probability from which a set holds the class; 0: always.
        coverage: share of the sets that hold it.
        size: mean number of classes in them.
    """

    threshold: float
    coverage: Proportion
    size: Metric


@dataclasses.dataclass(frozen=True)
class PredictionSets:
    """Sets of classes, see `prediction_sets`.

    Attributes:
        coverage: that was asked for, of the images of each class.
        by_class: by name.
        uncertain: share of images whose set holds several classes.
        verdict: sentences, which the report makes.
    """

    coverage: float
    by_class: dict[str, ClassSets]
    uncertain: Proportion
    verdict: list[str] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """The images of a split that the model gave a finite answer for.

    Attributes:
        num_images: that were judged.
        num_groups: patients or duplicate groups.
        confusion_matrix: counts, rows are true classes, columns decisions.
        metrics: of the whole split, by name. For two classes sensitivity,
            specificity, predictive values, F1 and areas are those of the
            positive class; for more, `roc_auc` is the mean over classes.
        one_vs_rest: more classes: class -> name -> metric.
        at_prevalence: two classes: "0.05" -> predictive value -> metric.
        num_without_answer: images that were left out.
        baselines: by name, if they were made.
        subgroups: column -> value, if there are columns. Where leaks were let
            in, the column `subgroups.KINSHIP` parts the images that share a
            patient or a copy with training from the others.
        out_of_distribution: if it was scored.
        prediction_sets: of images that did not choose their thresholds.
    """

    num_images: int
    num_groups: int
    confusion_matrix: list[list[int]]
    metrics: dict[str, Metric]
    one_vs_rest: dict[str, dict[str, Metric]] | None = None
    at_prevalence: dict[str, dict[str, Metric]] | None = None
    num_without_answer: int
    baselines: Baselines | None = None
    subgroups: dict[str, dict[str, Subgroup]] | None = None
    out_of_distribution: Unlikeness | None = None
    prediction_sets: PredictionSets | None = None


@dataclasses.dataclass(frozen=True)
class FoldMean:
    """Mean and standard deviation of a metric over the folds that have it."""

    value: float | None
    sd: float | None
    num_folds: int


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """The predictions of all folds together, each fold, and metrics' means."""

    num_folds: int
    pooled: Split
    folds: list[Split]
    mean: dict[str, FoldMean]


@dataclasses.dataclass(frozen=True)
class DoubtfulLabels:
    """Labels that the models of the folds contradict, see `label_doubts`.

    Attributes:
        share: of the images whose label is doubtful.
        verdict: sentences, which the report makes.
    """

    share: Proportion
    verdict: list[str]


@dataclasses.dataclass(frozen=True)
class Difference:
    """A metric of two models; of `this - other` a paired bootstrap's interval.

    `reason` says why there is no difference or no interval.
    """

    this: float | None
    other: float | None
    difference: float | None
    interval: Interval | None
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class DelongTest:
    """DeLong's test that two AUCs are equal; takes images as independent."""

    difference: float
    interval: Interval
    p_value: float


@dataclasses.dataclass(frozen=True)
class McNemarTest:
    """McNemar's exact test; takes images as independent."""

    only_this_right: int
    only_other_right: int
    p_value: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        this: name of the one, as `other` of the other.
        num_images: that both answered.
        num_groups: of these.
        num_without_answer: images that one of both gave no finite answer for.
        metrics: by name.
        mcnemar: None where there is no image.
        delong: by class; None for fewer than ten images of it or the others.
        verdict: sentences, which the report makes.
    """

    this: str
    other: str
    num_images: int
    num_groups: int
    num_without_answer: int
    metrics: dict[str, Difference]
    mcnemar: McNemarTest | None
    delong: dict[str, DelongTest | None]
    verdict: list[str] | None = None
