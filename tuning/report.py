"""What a sweep tells: a live table, sentences, a table, a picture, a page."""

import base64
import io
import json
import pathlib
import time

import jinja2
import numpy as np
from matplotlib import figure

from trainer.evaluation.results import Metric
from trainer.storage import csv_text
from tuning import objectives, optimism, search_space
from tuning.trial_log import EndedTrial

TRIALS_FILE = "trials.csv"
PICTURE_FILE, PAGE_FILE = "sweep.png", "sweep.html"
_TEMPLATES = pathlib.Path(__file__).parent / "templates"
_BLUE, _ORANGE = "#0072B2", "#D55E00"


class LiveTable:
    """Prints a row per ended trial: the best so far and the time left."""

    def __init__(self, options, num_before: int):
        self._options = options
        self._num_before = num_before
        self._start = time.monotonic()
        if num_before:
            print(f"{num_before} trials are finished already.")

    def show_last(self, trials: list[EndedTrial]) -> None:
        """Prints the row of the last of all trials that have ended."""
        objective = self._options.objective
        if len(trials) == self._num_before + 1:
            print(
                f"{'trial':>9} {objective:>12} {'best':>8} {'seconds':>8} "
                f"{'left':>8}  hyperparameters"
            )
        number, left = trials[-1].trial_id, "?"
        if self._options.oracle != "hyperband":
            number += f"/{self._options.max_trials}"
            each = time.monotonic() - self._start
            each /= len(trials) - self._num_before
            seconds = int(each * (self._options.max_trials - len(trials)))
            left = f"{seconds // 60}:{seconds % 60:02d}"
        best = objectives.best(trials, objective)
        values = " ".join(
            f"{name}={_short(value)}"
            for name, value in trials[-1].values.items()
            if name in search_space.SPACE
        )
        print(
            f"{number:>9} {_score(trials[-1]):>12} "
            f"{_score(best) if best else '':>8} {trials[-1].seconds:>8.2f} "
            f"{left:>8}  {trials[-1].message or values}",
            flush=True,
        )


def _short(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _score(trial: EndedTrial) -> str:
    return "failed" if trial.score is None else f"{trial.score:.4f}"


def make_verdict(
    options,
    num_completed: int,
    best: EndedTrial,
    metric: Metric,
    estimate: optimism.Estimate,
    default_score: float,
) -> list[str]:
    """How good the best trial is, and how far that may be believed.

    Args:
        options: of the sweep.
        num_completed: trials that it was chosen from.
        best: the best trial.
        metric: of the images judged on, with its interval.
        estimate: corrected for the choice.
        default_score: of the head without a sweep, on the same images.
    """
    where = "the validation split"
    if options.num_folds:
        where = f"{options.num_folds} grouped folds"
    together = ""
    if metric.value is not None:
        together = (
            f", {metric.value:.3f} ({_interval(metric.interval)}) on all "
            "its images together"
        )
    how_much = "; there are too few images to say by how much"
    if estimate.value is not None:
        how_much = (
            f": choosing among the {num_completed} trials on some of the "
            f"groups and judging on the others gives {estimate.value:.3f} "
            f"({_interval(estimate.interval)})"
        )
    return [
        f"The best of {num_completed} trials is {best.trial_id}: mean "
        f"{options.objective} {best.score:.3f} on {where}{together}.",
        "It was chosen for being the best on these images, so this is too good"
        f"{how_much}.",
        f"The default head has {default_score:.3f} on the same images: "
        + _compare(options.objective, estimate, default_score),
        "The test split was not touched: train with the result, and trust that "
        "run's test figures.",
    ]


def _compare(
    objective: str, estimate: optimism.Estimate, default_score: float
) -> str:
    """Whether the choice is better than no sweep."""

    def is_better(score):
        return objectives.sign(objective) * (score - default_score) > 0

    if estimate.value is None or not is_better(estimate.value):
        return "the sweep found none better beyond the luck of the choice."
    if not all(map(is_better, estimate.interval or [default_score])):
        return "its choice may be better, but the interval does not show it."
    return "the sweep found a better one."


def _interval(interval) -> str:
    if not interval:
        return "no interval"
    return f"95 % interval {interval[0]:.3f} to {interval[1]:.3f}"


def make_csv(trials: list[EndedTrial]) -> str:
    """`trials.csv`: a row per trial, as they ended."""
    metric_names = sorted({name for t in trials for name in t.metrics})
    columns = ["trial", "status", "score", "seconds", "num_epochs"]
    columns += [*search_space.SPACE, *metric_names, "message"]
    rows = [columns]
    for t in trials:
        facts = vars(t) | {"trial": t.trial_id, "status": t.status}
        facts |= t.values | t.metrics
        rows.append([facts.get(column) for column in columns])
    return csv_text.write(rows)


def make_files(
    options,
    trials: list[EndedTrial],
    best: EndedTrial,
    verdict: list[str],
    depths: list,
) -> dict[str, bytes | str]:
    """Content of `sweep.png` and `sweep.html` by name."""
    picture = _draw(options, trials, best)
    worst_first = -objectives.sign(options.objective)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True
    )
    environment.filters |= {"short": _short, "score": _score}
    searched = {k: v for k, v in best.values.items() if k in search_space.SPACE}
    page = environment.get_template(PAGE_FILE).render(
        objective=options.objective,
        verdict=verdict,
        best=best,
        best_values=json.dumps(searched, indent=2),
        picture=base64.b64encode(picture).decode("ascii"),
        names=list(search_space.SPACE),
        trials=sorted(
            trials,
            key=lambda t: np.inf if t.score is None else worst_first * t.score,
        ),
        depths=depths,
    )
    return {PICTURE_FILE: picture, PAGE_FILE: page}


def _draw(options, trials, best) -> bytes:
    """The history of the best, and a slice per hyperparameter."""
    completed = [t for t in trials if t.score is not None]
    names = [
        name
        for name in search_space.SPACE
        if len({t.values.get(name) for t in completed}) > 1
    ]
    num_rows = -(-(len(names) + 1) // 4)
    fig = figure.Figure(figsize=(12.8, 2.6 * num_rows), layout="constrained")
    axes = fig.subplots(num_rows, 4, squeeze=False).ravel()
    scores = np.array([t.score for t in completed])
    sign = objectives.sign(options.objective)
    so_far = sign * np.maximum.accumulate(sign * scores)
    axes[0].plot(scores, ".", color=_BLUE, alpha=0.6, label="trial")
    axes[0].plot(so_far, color=_ORANGE, label="best so far")
    axes[0].set(xlabel="trials, as they ended")
    axes[0].legend(frameon=False, fontsize=8)
    for ax, name in zip(axes[1:], names, strict=False):
        _draw_slice(ax, name, completed, best)
    for ax in axes[len(names) + 1 :]:
        ax.set_visible(False)
    for ax in axes:
        ax.set_ylabel(options.objective)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    buffer = io.BytesIO()
    # No version in the file: the same figures, the same bytes.
    fig.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def _draw_slice(ax, name, completed, best) -> None:
    whole = search_space.SPACE[name]
    having = [t for t in completed if name in t.values]
    x = [t.values[name] for t in having]
    marked = best.values.get(name)
    if isinstance(whole, search_space.Choice):
        order = [v for v in whole.values if v in x]
        ax.set_xticks(range(len(order)), [_short(v) for v in order])
        # Apart, or the points of a choice would hide each other.
        spread = np.random.default_rng(0).uniform(-0.15, 0.15, len(x))
        x = [order.index(value) for value in x] + spread
        marked = order.index(marked) if marked in order else None
    else:
        ax.set_xscale(whole.sampling)
    ax.plot(x, [t.score for t in having], ".", color=_BLUE, alpha=0.6)
    if marked is not None:
        ax.plot(marked, best.score, "o", mfc="none", color=_ORANGE, ms=9, mew=2)
    ax.set_xlabel(name)
