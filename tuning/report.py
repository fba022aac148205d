"""What a sweep tells: a live table, sentences, `sweep.png` and `sweep.html`."""

import base64
import io
import json
import pathlib
import sys
import time

import jinja2
import numpy as np
from matplotlib import figure

from trainer.evaluation.results import Metric
from tuning import optimism, search_space, trial, trial_queue

PICTURE_FILE, PAGE_FILE = "sweep.png", "sweep.html"
_TEMPLATES = pathlib.Path(__file__).parent / "templates"
_BLUE, _ORANGE = "#0072B2", "#D55E00"


class LiveTable:
    """Prints a row per finished trial, the best so far and the time left."""

    def __init__(self, options, finished: list[dict]):
        self._options = options
        self._is_max = trial.direction(options.objective) == "max"
        self._best = None
        self._count = 0
        self._start = time.monotonic()
        self._count_before = len(finished)
        for event in finished:
            self._note(event)
        if finished:
            print(f"{len(finished)} trials are finished already.")

    def _note(self, event: dict) -> None:
        self._count += 1
        score = event.get("score")
        if score is not None and (
            self._best is None or (score > self._best) == self._is_max
        ):
            self._best = score

    def add(self, event: dict, values: dict) -> None:
        """Prints the row of a trial that has just ended."""
        if self._count == self._count_before:
            print(
                f"{'trial':>9} {self._options.objective:>12} {'best':>8} "
                f"{'seconds':>8} {'left':>8}  hyperparameters"
            )
        self._note(event)
        score = event.get("score")
        print(
            f"{self._number(event):>9} "
            f"{'failed' if score is None else f'{score:.4f}':>12} "
            f"{'' if self._best is None else f'{self._best:.4f}':>8} "
            f"{event.get('seconds', 0):>8.2f} {self._left():>8}  "
            f"{event.get('message') or describe(values)}"
        )
        sys.stdout.flush()

    def _number(self, event) -> str:
        if self._options.oracle == "hyperband":
            return event["trial"]
        return f"{event['trial']}/{self._options.max_trials}"

    def _left(self) -> str:
        """Minutes and seconds that the other trials will take."""
        if self._options.oracle == "hyperband":
            return "?"
        done = self._count - self._count_before
        each = (time.monotonic() - self._start) / done
        seconds = each * max(0, self._options.max_trials - self._count)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def describe(values: dict) -> str:
    """Hyperparameters on one line."""
    return " ".join(
        f"{name}={_format(values[name])}"
        for name in search_space.SPACE
        if name in values
    )


def _format(value) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def make_verdict(
    options,
    best: dict,
    metric: Metric,
    estimate: optimism.Estimate,
    default_score: float,
) -> list[str]:
    """How good the best trial is, and how far that may be believed.

    Args:
        options: of the sweep.
        best: the event of the best trial's end.
        metric: of the images judged on, with its interval.
        estimate: corrected for the choice.
        default_score: of the head without a sweep, on the same images.
    """
    where = (
        f"{options.num_folds} grouped folds"
        if options.num_folds
        else "the validation split"
    )
    sentences = [
        f"The best of {estimate.num_trials} trials is {best['trial']}: mean "
        f"{options.objective} {best['score']:.3f} on {where}"
        + (
            f", {metric.value:.3f} ({_interval(metric.interval)}) on all its "
            "images together."
            if metric.value is not None
            else "."
        )
    ]
    warning = (
        "It was chosen for being the best on these images, so this is too good"
    )
    if estimate.value is None:
        sentences.append(
            f"{warning}; there are too few images to say by how much."
        )
    else:
        sentences.append(
            f"{warning}: choosing among the {estimate.num_trials} trials on "
            "some of the groups and judging on the others gives "
            f"{estimate.value:.3f} ({_interval(estimate.interval)})."
        )
    sentences.append(
        f"The default head has {default_score:.3f} on the same images: "
        + _compare(options.objective, estimate, default_score)
    )
    sentences.append(
        "The test split was not touched: train with the result, and trust that "
        "run's test figures."
    )
    return sentences


def _compare(
    objective: str, estimate: optimism.Estimate, default_score: float
) -> str:
    """Whether the choice is better than no sweep."""
    sign = 1 if trial.direction(objective) == "max" else -1
    if estimate.value is None or sign * (estimate.value - default_score) <= 0:
        return (
            "the sweep found none that is better beyond the luck of the choice."
        )
    worst = estimate.interval and min(sign * end for end in estimate.interval)
    if worst is None or worst <= sign * default_score:
        return (
            "what the sweep found may be better, but the interval does not "
            "show it."
        )
    return "the sweep found a better one."


def _interval(interval) -> str:
    if not interval:
        return "no interval"
    return f"95 % interval {interval[0]:.3f} to {interval[1]:.3f}"


def make_files(
    options,
    finished: list[dict],
    values: dict[str, dict],
    best: dict,
    verdict: list[str],
    depths: list,
) -> dict[str, bytes | str]:
    """Content of `sweep.png` and `sweep.html` by name."""
    picture = _draw(options, finished, values, best)
    sign = -1 if trial.direction(options.objective) == "max" else 1
    ordered = sorted(
        finished, key=lambda e: sign * e.get("score", -sign * np.inf)
    )
    rows = [
        {
            "kind": "best"
            if e is best
            else "failed"
            if e["status"] == trial_queue.FAILED
            else "",
            "trial": e["trial"],
            "score": f"{e['score']:.4f}" if "score" in e else "failed",
            "seconds": f"{e.get('seconds', 0):.2f}",
            "values": [
                _format(values[e["trial"]].get(name, ""))
                for name in search_space.SPACE
            ],
            "message": e.get("message", ""),
        }
        for e in ordered
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True
    )
    page = environment.get_template(PAGE_FILE).render(
        num_trials=len(finished),
        objective=options.objective,
        verdict=verdict,
        best=json.dumps(
            {
                name: value
                for name, value in values[best["trial"]].items()
                if name in search_space.SPACE
            },
            indent=2,
        ),
        picture=base64.b64encode(picture).decode("ascii"),
        names=list(search_space.SPACE),
        rows=rows,
        depths=depths,
    )
    return {PICTURE_FILE: picture, PAGE_FILE: page}


def _draw(options, finished, values, best) -> bytes:
    """The history of the best, and a slice per hyperparameter."""
    completed = [e for e in finished if e["status"] == trial_queue.COMPLETED]
    names = [
        name
        for name in search_space.SPACE
        if len({values[e["trial"]].get(name) for e in completed}) > 1
    ]
    num_columns = 4
    num_rows = -(-(len(names) + 1) // num_columns)
    fig = figure.Figure(
        figsize=(3.2 * num_columns, 2.6 * num_rows), layout="constrained"
    )
    axes = fig.subplots(num_rows, num_columns, squeeze=False).ravel()
    scores = np.array([e["score"] for e in completed])
    if trial.direction(options.objective) == "max":
        so_far = np.maximum.accumulate(scores)
    else:
        so_far = np.minimum.accumulate(scores)
    axes[0].plot(scores, ".", color=_BLUE, alpha=0.6, label="trial")
    axes[0].plot(so_far, color=_ORANGE, label="best so far")
    axes[0].set(xlabel="trials, as they ended", ylabel=options.objective)
    axes[0].legend(frameon=False, fontsize=8)
    for ax, name in zip(axes[1:], names, strict=False):
        _draw_slice(ax, name, options, completed, values, best)
    for ax in axes[len(names) + 1 :]:
        ax.set_visible(False)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    buffer = io.BytesIO()
    # No version in the file: the same figures, the same bytes.
    fig.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def _draw_slice(ax, name, options, completed, values, best) -> None:
    whole = search_space.SPACE[name]
    having = [e for e in completed if name in values[e["trial"]]]
    x = [values[e["trial"]][name] for e in having]
    scores = [e["score"] for e in having]
    marked = values[best["trial"]].get(name)
    if isinstance(whole, search_space.Choice):
        order = [v for v in whole.values if v in x]
        places = [order.index(v) for v in x]
        # Apart, or the points of a choice would hide each other.
        spread = np.random.default_rng(0).uniform(-0.15, 0.15, len(x))
        ax.plot(places + spread, scores, ".", color=_BLUE, alpha=0.6)
        ax.set_xticks(range(len(order)), [_format(v) for v in order])
        marked = order.index(marked) if marked in order else None
    else:
        ax.plot(x, scores, ".", color=_BLUE, alpha=0.6)
        ax.set_xscale(whole.sampling)
    if marked is not None:
        ax.plot(
            marked, best["score"], "o", mfc="none", color=_ORANGE, ms=9, mew=2
        )
    ax.set(xlabel=name, ylabel=options.objective)
