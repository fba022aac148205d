"""Figures of the evaluation, as PNG bytes.

Figures are made without pyplot, which keeps global state and a window system.
Colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

import contextlib
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import seaborn
from matplotlib import figure, font_manager
from sklearn import metrics as sklearn_metrics

from trainer.evaluation import intervals, ordinal
from trainer.evaluation.predictions import Decided

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SPLIT_COLORS = {"train": "#009E73", "validation": "#0072B2", "test": "#D55E00"}
_LINE_STYLES = ("-", "--", ":", "-.")
_MAX_ANNOTATED_CLASSES = 20
_MAX_IN_LEGEND = 24
_FONT = "DejaVu Sans"  # Matplotlib's own
# An observed share of fewer images says nothing.
_MIN_IMAGES_PER_BIN = 8
_MAX_BINS = 10


def new_figure(
    width: float = 5.5, height: float = 4.5, num_axes: int = 1
) -> tuple[figure.Figure, Any]:
    """A figure and its axes, sizes in inches."""
    fig = figure.Figure(figsize=(width, height), layout="constrained")
    return fig, fig.subplots(1, num_axes)


def png(fig: figure.Figure) -> bytes:
    """The bytes of a figure."""
    buffer = io.BytesIO()
    # No date or version in the file: the same figures, the same bytes.
    fig.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


@contextlib.contextmanager
def fonts_for(texts: Iterable[str]) -> Iterator[None]:
    """Draws with installed fonts what Matplotlib's own has no letters for."""
    own = font_manager.get_font(font_manager.findfont(_FONT))
    missing = set(map(ord, "".join(texts))) - set(own.get_charmap())
    families = [_FONT]
    paths = font_manager.findSystemFonts() if missing else []
    for path in sorted(paths, key=lambda p: ("regular" not in p.lower(), p)):
        try:
            found = missing & set(font_manager.get_font(path).get_charmap())
        except (RuntimeError, OSError):  # no font after all
            continue
        if found:
            font_manager.fontManager.addfont(path)
            properties = font_manager.FontProperties(fname=path)
            families.append(properties.get_name())
            missing -= found
        if not missing:
            break
    with matplotlib.rc_context({"font.family": families}):
        yield


def _draw_diagonal(axes: Any) -> None:
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")


def finish(
    axes: Any, values: Sequence[Any], place: str, nothing: str, **labels: Any
) -> None:
    """Labels, and a legend at a place, or why there is nothing to draw.

    Of too many curves for a legend it has those of the lowest values.
    """
    axes.set(**labels)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if not len(values):
        where = {"ha": "center", "va": "center", "transform": axes.transAxes}
        axes.text(0.5, 0.5, nothing, **where)
        return
    handles, names = axes.get_legend_handles_labels()
    shown, title = np.arange(len(handles)), None
    if len(handles) > _MAX_IN_LEGEND:
        shown = np.argsort(values, kind="stable")[:_MAX_IN_LEGEND]
        title = f"the {len(shown)} lowest of {len(handles)}"
    axes.legend(
        [handles[i] for i in shown],
        [names[i] for i in shown],
        loc=place,
        fontsize=9 if len(handles) < 8 else 6,
        title=title,
        title_fontsize=6,
    )


def _plain(text: str, width: int = 24) -> str:
    """A name as it is: a pair of $ would be taken for a formula."""
    if len(text) > width:
        text = text[: width - 1] + "…"
    return text.replace("$", r"\$")


def confusion_matrix(
    confusion: list[list[int]],
    class_names: tuple[str, ...],
    title: str,
    ranks: tuple[int, ...] = (),
) -> bytes:
    """Counts and shares of each true class, as a heatmap.

    Classes with `ranks` stand in their order, and mistakes are the redder the
    further off they are.
    """
    order = np.argsort(ranks) if ranks else np.arange(len(class_names))
    counts = np.asarray(confusion)[np.ix_(order, order)]
    off = ordinal.distances(tuple(range(len(order)))) if ranks else 0 * counts
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(
        counts, totals, out=np.zeros(counts.shape), where=totals > 0
    )
    annotated = len(class_names) <= _MAX_ANNOTATED_CLASSES
    texts = [
        f"{count}\n{share:.0%}" + (f"\n{steps} off" if steps else "")
        for count, share, steps in zip(
            counts.flat, shares.flat, off.flat, strict=True
        )
    ]
    size = 2.4 + (0.9 if annotated else 0.25) * len(class_names)
    fig, axes = new_figure(size + 0.4, size)
    labels = [_plain(class_names[c]) for c in order]
    for values, hidden, colors in (
        (shares, off > 0, "Blues"),
        (shares * off / max(1, off.max()), off == 0, "Reds"),
    ):
        if hidden.all():
            continue
        seaborn.heatmap(
            values,
            mask=hidden,
            annot=np.reshape(texts, counts.shape) if annotated else False,
            fmt="",
            cmap=colors,
            vmin=0,
            vmax=1,
            square=True,
            linewidths=1,
            xticklabels=labels,
            yticklabels=labels,
            annot_kws={"fontsize": 13 if len(class_names) < 6 else 9},
            cbar=False,
            ax=axes,
        )
    axes.tick_params(length=0)
    if len(class_names) > 3:
        axes.tick_params(axis="x", rotation=40)
    axes.set(xlabel="decided", ylabel="true class", title=title)
    return png(fig)


@dataclasses.dataclass(frozen=True)
class _Curve:
    """One class of one split against the others."""

    label: str
    truth: np.ndarray
    score: np.ndarray
    color: str
    style: str


def _curves(predictions: Mapping[str, Decided]) -> list[_Curve]:
    """One per split for two classes; one per class of the last for more.

    The last split is test where there is one: classes and splits together
    would be too many curves to tell apart.
    """
    p = list(predictions.values())[-1]
    if p.positive_index is not None:
        return [
            _Curve(
                split,
                p.labels == p.positive_index,
                p.scores,
                _SPLIT_COLORS[split],
                "--" if split == "validation" else "-",
            )
            for split, p in predictions.items()
        ]
    return [
        _Curve(
            _plain(name),
            p.labels == c,
            p.probabilities[:, c],
            COLORS[c % len(COLORS)],
            _LINE_STYLES[c // len(COLORS) % len(_LINE_STYLES)],
        )
        for c, name in enumerate(p.class_names)
    ]


def _of_what(predictions: Mapping[str, Decided]) -> str:
    split, p = list(predictions.items())[-1]
    if p.positive_index is not None:
        return _plain(p.class_names[p.positive_index])
    return f"each class against the others, {split}"


def roc_curve(predictions: Mapping[str, Decided]) -> bytes:
    """ROC curves of each split, with the operating point."""
    operating_point = next(iter(predictions.values())).operating_point
    fig, axes = new_figure()
    _draw_diagonal(axes)
    areas = []
    for curve in _curves(predictions):
        if curve.truth.all() or not curve.truth.any():
            continue
        fpr, tpr, _ = sklearn_metrics.roc_curve(curve.truth, curve.score)
        areas.append(sklearn_metrics.auc(fpr, tpr))
        axes.plot(
            fpr,
            tpr,
            curve.style,
            color=curve.color,
            label=f"{curve.label}: AUC {areas[-1]:.3f}",
        )
        if operating_point is not None:
            decided = curve.score >= operating_point
            axes.plot(
                np.mean(decided[~curve.truth]),
                np.mean(decided[curve.truth]),
                "o",
                color=curve.color,
            )
    title = f"ROC: {_of_what(predictions)}"
    if operating_point is not None:
        title += "; dots: operating point"
    finish(
        axes,
        areas,
        "lower right",
        "needs images of both classes",
        xlabel="1 - specificity",
        ylabel="sensitivity",
        title=title,
    )
    return png(fig)


def precision_recall_curve(predictions: Mapping[str, Decided]) -> bytes:
    """Precision-recall curves of each split; dotted: prevalence."""
    fig, axes = new_figure()
    areas = []
    for curve in _curves(predictions):
        if not curve.truth.any():
            continue
        precision, recall, _ = sklearn_metrics.precision_recall_curve(
            curve.truth, curve.score
        )
        areas.append(
            sklearn_metrics.average_precision_score(curve.truth, curve.score)
        )
        axes.plot(
            recall,
            precision,
            curve.style,
            color=curve.color,
            drawstyle="steps-post",
            label=f"{curve.label}: AP {areas[-1]:.3f}",
        )
        axes.axhline(
            curve.truth.mean(), color=curve.color, linewidth=1, linestyle=":"
        )
    finish(
        axes,
        areas,
        "lower left",
        "needs an image of the positive class",
        xlabel="recall (sensitivity)",
        ylabel="precision (PPV)",
        title=f"Precision and recall: {_of_what(predictions)}",
        ylim=(0, 1.03),
    )
    return png(fig)


def _reliability(
    score: np.ndarray, truth: np.ndarray
) -> Iterator[tuple[float, float, float, float]]:
    """Mean score, observed share and its Wilson interval, per bin.

    Bins hold the same number of images each: bins of equal width would show
    shares of one or two images on a small split.
    """
    num_bins = min(_MAX_BINS, len(score) // _MIN_IMAGES_PER_BIN)
    order = np.argsort(score, kind="stable")
    for members in np.array_split(order, max(1, num_bins)):
        share = float(truth[members].mean())
        low, high = intervals.wilson_interval(share, len(members))
        yield score[members].mean(), share, share - low, high - share


def calibration(predictions: Mapping[str, Decided]) -> bytes:
    """Reliability diagrams, before and after a temperature."""
    temperature = next(iter(predictions.values())).temperature
    if temperature == 1:
        fig, axes = new_figure()
        _draw_reliability(axes, predictions, "calibration")
        return png(fig)
    fig, (left, right) = new_figure(9, 4.5, 2)
    uncalibrated = {
        split: dataclasses.replace(p, temperature=1.0)
        for split, p in predictions.items()
    }
    _draw_reliability(left, uncalibrated, "before calibration")
    title = f"after calibration (T = {temperature:.2f})"
    _draw_reliability(right, predictions, title)
    return png(fig)


def _draw_reliability(
    axes: Any, predictions: Mapping[str, Decided], title: str
) -> None:
    _draw_diagonal(axes)
    judged = {s: p for s, p in predictions.items() if len(p.labels)}
    for (split, p), marker in zip(judged.items(), "so^", strict=False):
        if p.positive_index is None:
            truth = p.probabilities.argmax(axis=-1) == p.labels
        else:
            truth = p.labels == p.positive_index
        mean, share, below, above = zip(
            *_reliability(p.scores, truth), strict=True
        )
        axes.errorbar(
            mean,
            share,
            yerr=(below, above),
            fmt=f"{marker}-",
            color=_SPLIT_COLORS[split],
            elinewidth=1,
            capsize=3,
            alpha=0.9,
            label=split,
        )
    xlabel = "predicted probability"
    if next(iter(predictions.values())).positive_index is None:
        xlabel += " of the class decided on"
    finish(
        axes,
        list(judged),
        "upper left",
        "no image was judged",
        xlabel=xlabel,
        ylabel="observed share, 95 % interval",
        title=title,
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )


def training_history(rows: list[dict]) -> bytes:
    """Accuracy and loss over the epochs of both phases."""
    fig, pair = new_figure(9, 3.8, 2)
    epochs = np.arange(1, len(rows) + 1)
    for axes, name in zip(pair, ("accuracy", "loss"), strict=True):
        for column, split in ((name, "train"), (f"val_{name}", "validation")):
            axes.plot(
                epochs,
                [row[column] for row in rows],
                ".-",
                color=_SPLIT_COLORS[split],
                linewidth=1.2,
                label=split,
            )
        for i in range(1, len(rows)):
            if rows[i]["phase"] != rows[i - 1]["phase"]:
                axes.axvline(i + 0.5, color="0.4", linestyle="--", linewidth=1)
        title = name.capitalize()
        if rows and rows[0]["phase"] != rows[-1]["phase"]:
            title += "; dashed: fine-tuning starts"
        axes.xaxis.get_major_locator().set_params(integer=True)
        finish(
            axes,
            rows,
            "best",
            "no epoch was trained",
            xlabel="epoch",
            ylabel=name,
            title=title,
        )
    return png(fig)
