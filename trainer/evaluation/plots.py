"""Figures of the evaluation, as PNG bytes.

Figures are made without pyplot, which keeps global state and a window system.
Colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

import dataclasses
import io

import numpy as np
import seaborn
from matplotlib import figure
from sklearn import metrics as sklearn_metrics

from trainer.evaluation import predictions as predictions_lib

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def _new_figure(width: float = 5.5, height: float = 4.5, num_axes: int = 1):
    fig = figure.Figure(figsize=(width, height), layout="constrained")
    return fig, fig.subplots(1, num_axes)


def _png(fig: figure.Figure) -> bytes:
    buffer = io.BytesIO()
    # No date or version in the file: the same figures, the same bytes.
    fig.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def _style(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def confusion_matrix(
    counts: list[list[int]], class_names: tuple[str, ...], title: str
) -> bytes:
    """Counts and shares of each true class, as a heatmap."""
    counts = np.asarray(counts)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(
        counts, totals, out=np.zeros(counts.shape), where=totals > 0
    )
    texts = [
        [f"{c}\n{s:.0%}" for c, s in zip(row, share_row, strict=True)]
        for row, share_row in zip(counts, shares, strict=True)
    ]
    size = 2.6 + 0.9 * len(class_names)
    fig, axes = _new_figure(size + 0.8, size)
    seaborn.heatmap(
        shares,
        annot=np.array(texts),
        fmt="",
        cmap="Blues",
        vmin=0,
        vmax=1,
        square=True,
        linewidths=1,
        xticklabels=class_names,
        yticklabels=class_names,
        cbar_kws={"label": "share of the true class"},
        ax=axes,
    )
    axes.set(xlabel="decided", ylabel="true", title=title)
    return _png(fig)


def _curves(p: predictions_lib.Predictions, class_names, positive_index):
    """Name, truth and score of each curve: one for two classes."""
    probabilities = p.probabilities
    if positive_index is not None:
        return [
            (
                class_names[positive_index],
                p.labels == positive_index,
                probabilities[:, positive_index],
            )
        ]
    return [
        (name, p.labels == c, probabilities[:, c])
        for c, name in enumerate(class_names)
    ]


def roc_curve(
    predictions: dict[str, predictions_lib.Predictions],
    class_names: tuple[str, ...],
    positive_index: int | None,
    operating_point: float | None,
) -> bytes:
    """ROC curves of each split, with the operating point."""
    fig, axes = _new_figure()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
    styles = ("-", "--", ":")
    for (split, p), style in zip(predictions.items(), styles, strict=False):
        curves = _curves(p, class_names, positive_index)
        for i, (name, truth, score) in enumerate(curves):
            if truth.all() or not truth.any():
                continue
            fpr, tpr, _ = sklearn_metrics.roc_curve(truth, score)
            color = COLORS[(i if len(curves) > 1 else len(axes.lines)) % 6]
            auc = sklearn_metrics.auc(fpr, tpr)
            axes.plot(
                fpr,
                tpr,
                style,
                color=color,
                label=f"{split}, {name}: AUC {auc:.3f}",
            )
            if operating_point is not None:
                decided = score >= operating_point
                axes.plot(
                    np.mean(decided[~truth]),
                    np.mean(decided[truth]),
                    "o",
                    color=color,
                )
    axes.set(
        xlabel="1 - specificity",
        ylabel="sensitivity",
        title="ROC; dots: operating point",
    )
    _style(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right")
    return _png(fig)


def precision_recall_curve(
    predictions: dict[str, predictions_lib.Predictions],
    class_names: tuple[str, ...],
    positive_index: int | None,
) -> bytes:
    """Precision-recall curves of each split; dotted: prevalence."""
    fig, axes = _new_figure()
    styles = ("-", "--", ":")
    drawn = 0
    for (split, p), style in zip(predictions.items(), styles, strict=False):
        for name, truth, score in _curves(p, class_names, positive_index):
            if not truth.any():
                continue
            precision, recall, _ = sklearn_metrics.precision_recall_curve(
                truth, score
            )
            average = sklearn_metrics.average_precision_score(truth, score)
            color = COLORS[drawn % len(COLORS)]
            drawn += 1
            axes.plot(
                recall,
                precision,
                style,
                color=color,
                drawstyle="steps-post",
                label=f"{split}, {name}: AP {average:.3f}",
            )
            axes.axhline(truth.mean(), color=color, linewidth=1, linestyle=":")
    axes.set(
        xlabel="recall (sensitivity)",
        ylabel="precision (PPV)",
        title="Precision and recall; dotted: prevalence",
        ylim=(0, 1.03),
    )
    _style(axes)
    if drawn:
        axes.legend(loc="lower left")
    return _png(fig)


def calibration(
    predictions: dict[str, predictions_lib.Predictions],
    positive_index: int | None,
    num_bins: int = 8,
) -> bytes:
    """Reliability diagrams, before and after the temperature."""
    fig, pair = _new_figure(9, 4.3, 2)
    for axes, title in zip(pair, ("before", "after"), strict=True):
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
        for i, (split, p) in enumerate(predictions.items()):
            if title == "before":
                p = dataclasses.replace(p, temperature=1.0)
            score = p.scores(positive_index)
            if positive_index is None:
                truth = p.probabilities.argmax(axis=-1) == p.labels
            else:
                truth = p.labels == positive_index
            bins = np.minimum((score * num_bins).astype(int), num_bins - 1)
            used = [b for b in range(num_bins) if np.any(bins == b)]
            axes.plot(
                [score[bins == b].mean() for b in used],
                [truth[bins == b].mean() for b in used],
                "o-",
                color=COLORS[i % len(COLORS)],
                label=split,
            )
        temperature = next(iter(predictions.values())).temperature
        axes.set(
            xlabel="predicted probability",
            ylabel="observed share",
            title=f"{title} calibration"
            + (f" (T = {temperature:.2f})" if title == "after" else ""),
            xlim=(-0.02, 1.02),
            ylim=(-0.02, 1.02),
        )
        _style(axes)
        axes.legend()
    return _png(fig)


def training_history(rows: list[dict]) -> bytes:
    """Accuracy and loss over the epochs of both phases.

    Args:
        rows: of `history.csv`.
    """
    fig, pair = _new_figure(10, 4, 2)
    epochs = np.arange(1, len(rows) + 1)
    for axes, name in zip(pair, ("accuracy", "loss"), strict=True):
        for i, (column, label) in enumerate(
            ((name, "training"), (f"val_{name}", "validation"))
        ):
            values = [row[column] for row in rows]
            axes.plot(
                epochs,
                values,
                ".-",
                color=COLORS[i],
                label=label,
            )
        for i in range(1, len(rows)):
            if rows[i]["phase"] != rows[i - 1]["phase"]:
                axes.axvline(i + 0.5, color="0.4", linestyle="--", linewidth=1)
                axes.annotate(
                    "fine-tuning",
                    (i + 0.5, 1),
                    xycoords=("data", "axes fraction"),
                    xytext=(4, -4),
                    textcoords="offset points",
                    va="top",
                    color="0.3",
                )
        axes.set(xlabel="epoch", ylabel=name, title=name.capitalize())
        axes.xaxis.get_major_locator().set_params(integer=True)
        _style(axes)
        axes.legend()
    return _png(fig)
