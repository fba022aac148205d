"""The groups of every split as a report takes images."""

import dataclasses
from collections.abc import Mapping

from trainer.evaluation import calibration, studies
from trainer.evaluation.predictions import Decided
from trainer.report.context import Context, SplitFacts


@dataclasses.dataclass(frozen=True)
class Patients:
    """Predictions of groups by split, and what is known of them."""

    predictions: Mapping[str, Decided]
    context: Context


def group(
    decided: Mapping[str, Decided],
    choice: calibration.StudyChoice,
    context: Context,
) -> Patients:
    """Combines the predictions, baselines and pictures of images.

    A group's picture is of the image that speaks most for its decision.
    """
    predictions = {
        split: studies.by_group(p, choice.rule, choice.operating_point)
        for split, p in decided.items()
    }
    facts = {
        split: SplitFacts(
            baselines={
                name: studies.combine_scores(p, scores, choice.rule)
                for name, scores in context.of(split).baselines.items()
            }
        )
        for split, p in decided.items()
    }
    read = context.read_images

    def read_clearest(split: str, indices: list[int]) -> list[bytes]:
        images = studies.clearest(decided[split], predictions[split])
        return read(split, images[indices].tolist()) if read else []

    return Patients(
        predictions,
        Context(
            prevalences=context.prevalences,
            splits=facts,
            read_images=read_clearest if read else None,
            explain=context.explain,
        ),
    )
