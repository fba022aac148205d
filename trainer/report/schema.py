"""What `metrics.json` holds; `trainer/evaluation/results.py` has its parts."""

import dataclasses
import json
from typing import Any

from trainer.evaluation import results

METRICS_SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class PerPatient:
    """What was found where each group of images counts once.

    Attributes:
        rule: by which the scores of a group's images become one.
        operating_point: threshold on that score, chosen on the groups of
            validation; None unless there are two classes.
        verdict: sentences.
        splits: by name; their images are groups.
    """

    rule: str
    operating_point: float | None
    verdict: list[str]
    splits: dict[str, results.Split]


@dataclasses.dataclass(frozen=True)
class Findings:
    """All that was found.

    Attributes:
        schema_version: of this file.
        subject: which model was judged on which images, "" for the model of a
            run on its own data.
        class_names: in the order of the labels.
        positive_class: None unless there are two classes.
        temperature: divides the logits; fitted on validation. 1 where a served
            model was judged, which calibrates itself.
        operating_point: threshold on the probability of the positive class,
            None unless there are two classes.
        operating_point_rule: how validation chose it.
        dataset_fingerprint: of `dataset.json`.
        verdict: sentences: what was found.
        caveats: sentences: what to know before the figures.
        shown: the split that both are about.
        splits: by name.
        cross_validation: if there was one.
        doubtful_labels: if there was a cross-validation.
        comparison: with another model, if there was one.
        per_patient: if a group has several images.
    """

    schema_version: int
    subject: str
    class_names: tuple[str, ...]
    positive_class: str | None
    temperature: float
    operating_point: float | None
    operating_point_rule: str
    dataset_fingerprint: str
    verdict: list[str]
    caveats: list[str]
    shown: str
    splits: dict[str, results.Split]
    cross_validation: results.CrossValidation | None = None
    doubtful_labels: results.DoubtfulLabels | None = None
    comparison: results.Comparison | None = None
    per_patient: PerPatient | None = None

    @property
    def split(self) -> results.Split:
        """The split that is shown."""
        return self.splits[self.shown]

    def to_json(self) -> str:
        """The text of `metrics.json`."""
        return json.dumps(_plain(self), indent=2) + "\n"


def _plain(value: Any) -> Any:
    """Dictionaries instead of results; see `results` for what is left out."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.default is not None
            or getattr(value, field.name) is not None
        }
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
