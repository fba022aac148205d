"""Answers in use beside those of an evaluation: read, told and drawn."""

import dataclasses
import json

import numpy as np

from trainer.evaluation import drift
from trainer.evaluation.answers import IMAGE, STUDY, Answers
from trainer.report import plots
from trainer.storage import csv_text, paths

_TITLES = {
    drift.SCORES: "Scores",
    drift.DECISIONS: "Decisions",
    drift.UNLIKENESS: "Unlikeness to the training images",
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a model said when it was evaluated.

    Attributes:
        answers: of independent images or studies.
        split: that these are of.
        positive_index: None unless there are two classes.
        has_several: whether a group has several images.
    """

    answers: Answers
    split: str
    positive_index: int | None
    has_several: bool


def read_reference(directory: str, unit: str, seed: int = 0) -> Reference:
    """Reads the evaluation of a job, or the output of `serving.evaluate`.

    The images of test, which chose nothing; without them those of validation.
    Of images one of each group is taken, for those of a patient are alike; of
    studies the unlikeness is the median of their images, as it is served.

    Raises:
        ValueError: if there is none, or it judged no studies.
    """
    if paths.exists(paths.join(directory, "evaluation", "metrics.json")):
        directory = paths.join(directory, "evaluation")
    try:
        found = json.loads(
            paths.read_bytes(paths.join(directory, "metrics.json"))
        )
        judged = found["per_patient"] if unit == STUDY else found
        rows = _rows(directory, "predictions.csv", found["shown"])
        groups: dict[str, list[dict]] = {}
        for i in np.random.default_rng(seed).permutation(len(rows)):
            groups.setdefault(rows[i]["group"], []).append(rows[i])
        chosen = [images[0] for images in groups.values()]
        unlike = [_number(row) for row in chosen]
        if unit == STUDY:
            chosen = _rows(
                directory, "predictions_by_group.csv", found["shown"]
            )
            unlike = [
                float(np.median([_number(row) for row in groups[row["id"]]]))
                for row in chosen
            ]
        names, positive = tuple(found["class_names"]), found["positive_class"]
        answers = Answers(
            unit,
            names,
            judged["operating_point"],
            np.array([float(row["score"]) for row in chosen]),
            np.array([names.index(row["decision"]) for row in chosen], int),
            np.array(unlike),
        )
    except FileNotFoundError as error:
        raise ValueError(
            f"{error.filename} does not exist: give the --job_dir of a run, or "
            "the --output_dir of serving.evaluate."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if unit == STUDY and "per_patient" in str(error):
            raise ValueError(
                f"The log is of studies (--by), and {directory} judged no "
                "patients: log answers of images."
            ) from error
        raise ValueError(f"{directory} holds a damaged evaluation.") from error
    return Reference(
        answers,
        found["shown"],
        None if positive is None else names.index(positive),
        len(groups) < len(rows),
    )


def _rows(directory: str, name: str, split: str) -> list[dict[str, str]]:
    """Rows of the images, or groups, of a split that got an answer."""
    text = paths.read_bytes(paths.join(directory, name)).decode("utf-8")
    return [
        row
        for row in csv_text.read(text)
        if row["split"] == split and row["decision"]
    ]


def _number(row: dict[str, str]) -> float:
    return float(row.get("out_of_distribution") or "nan")


def check_model(reference: Answers, used: Answers) -> None:
    """Refuses answers of another model.

    Raises:
        ValueError: if classes or thresholds differ.
    """
    if used.class_names != reference.class_names:
        raise ValueError(
            f"The log is of a model of {', '.join(used.class_names)}, and "
            f"--reference of one of {', '.join(reference.class_names)}: give "
            "the evaluation of the model that answers."
        )
    # What is served is float32; more than two classes have no threshold.
    wanted, found = np.array([reference.threshold, used.threshold], np.float32)
    if abs(found - wanted) > 1e-6 or np.isnan(found) != np.isnan(wanted):
        raise ValueError(
            f"The log is of a model that decides from {used.threshold} on, and "
            f"--reference of one that does from {reference.threshold} on: give "
            "the evaluation of the model that answers."
        )


def describe(
    found: drift.Drift, reference: Reference, num_used: int
) -> list[str]:
    """What has moved, by how much, and what can be concluded."""
    split, unit = reference.split, reference.answers.unit
    units = "images" if unit == IMAGE else "patients"
    spoken = [
        f"{num_used} answers, in their order, beside those for "
        f"{len(reference.answers.scores)} {units} of {split}. If nothing has "
        f"moved, this says that something has in {100 * drift.FALSE_ALARMS:g} "
        "% of logs at most, however often one looks; intervals are those of "
        "one look."
    ]
    sizes = {
        drift.SCORES: "the chance that an answer scores higher than one of "
        f"{split} is {_tell(found.higher)}, 0.5 if nothing has moved",
        drift.DECISIONS: _change(
            found.called, f"called {found.class_name}", split
        ),
    }
    if found.flagged:
        sizes[drift.UNLIKENESS] = _change(
            found.flagged, "unlike the training images", split
        )
    for name, size in sizes.items():
        moved = found.moved[name]
        said = "no sign that they have moved"
        if moved:
            said = f"have moved, as answer {moved} showed"
        title = _TITLES[name]
        if name == drift.UNLIKENESS:
            said = said.replace("they have", "it has").replace("have ", "has ")
        spoken.append(f"{title}: {said}; {size}.")
    return spoken + _conclude(found, reference)


def _change(change: drift.Change, what: str, split: str) -> str:
    return (
        f"{what} is a share of {_tell(change.now)}, on {split} "
        f"{_tell(change.before)}, a difference of "
        f"{_tell(change.difference, '+.3f')}"
    )


def _tell(estimate: drift.Estimate, how: str = ".3f") -> str:
    if estimate.interval is None:
        return f"{estimate.value:{how}} (interval not computed)"
    low, high = estimate.interval
    return f"{estimate.value:{how}} (95 % interval {low:{how}} to {high:{how}})"


def _conclude(found: drift.Drift, reference: Reference) -> list[str]:
    spoken, moved = [], found.moved
    if moved.get(drift.UNLIKENESS):
        spoken.append(
            "The images are others than the model was judged on: another "
            "device, protocol or kind of patient. What the report says of its "
            "errors may not hold for them: label some, and judge the model on "
            "these (serving.evaluate)."
        )
    elif moved[drift.SCORES] or moved[drift.DECISIONS]:
        spoken.append(
            "That may be another case mix alone, with more or fewer who have "
            "the disease: then sensitivity and specificity still hold, and "
            "predictive values do not. Or the model errs otherwise than it "
            "did. Scores cannot tell the one from the other: label some of "
            "these images, and judge the model on them (serving.evaluate)."
        )
    else:
        spoken.append(
            "No sign is no proof: a small change, or one that leaves scores as "
            "they are, is not seen. How common the disease is may have changed "
            "by as much as the intervals allow."
        )
    if not found.flagged:
        spoken.append(
            "How unlike the images are is not known of both: nothing is said "
            "of it."
        )
    if reference.has_several and reference.answers.unit == IMAGE:
        spoken.append(
            "The evaluation had several images of a patient, and answers are "
            "taken as of one patient each: where they are not, ask and log by "
            "patient (serving.predict --by=patient), or alarms are false."
        )
    return spoken


def draw(found: drift.Drift, reference: Reference, used: Answers) -> bytes:
    """PNG: how scores and unlikeness are spread, and the evidence."""
    pairs = [(drift.SCORES, reference.answers.scores, used.scores)]
    if found.flagged:
        before = reference.answers.unlikeness
        before = before[np.isfinite(before)]
        pairs.append((drift.UNLIKENESS, before, used.unlikeness))
    fig, axes = plots.new_figure(4.5 * len(pairs) + 4.5, 3.8, len(pairs) + 1)
    for (name, *both), spread in zip(pairs, axes, strict=False):
        labels = (reference.split, "in use")
        for values, label, color in zip(
            both, labels, plots.COLORS, strict=False
        ):
            spread.ecdf(values, color=color, label=f"{label}, {len(values)}")
        plots.finish(
            spread,
            both,
            "best",
            "",
            xlabel=_TITLES[name].lower(),
            ylabel="share that is at most so high",
            title=_TITLES[name],
        )
    for (name, capital), color in zip(
        found.evidence.items(), plots.COLORS[2:], strict=False
    ):
        axes[-1].semilogy(
            np.arange(1, len(capital) + 1), capital, color=color, label=name
        )
    axes[-1].axhline(found.needed, color="0.3", linestyle="--", linewidth=1)
    plots.finish(
        axes[-1],
        [0] * len(found.evidence),
        "best",
        "",
        xlabel="answers",
        ylabel="evidence; sure above the line",
        title="Has it moved?",
    )
    return plots.png(fig)
