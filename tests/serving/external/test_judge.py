"""Models that someone else trained, judged on any record set."""

import dataclasses
import types

import numpy as np
import pytest

from serving.external import asking, judge
from tests.report.samples import make_info
from tests.samples import write_records
from trainer.data import input_pipeline, records
from trainer.data.build import output
from trainer.evaluation import calibration
from trainer.report.context import Context

NAMES = ("no_tumor", "tumor")
SWAPPED = ("tumor", "no_tumor")


def fake_model(
    class_names=NAMES,
    threshold=0.4,
    tells_names=True,
    fingerprint="",
    columns=(0, 1),
    skill=1.0,
    broken=(),
):
    """A model that knows bright squares by the mean of the encoded bytes."""

    def ask(images):
        generator = np.random.default_rng([len(image) for image in images])
        logits = np.array([len(image) / 100 for image in images])
        logits = skill * (logits - 12) + generator.normal(size=len(images))
        probability = 1 / (1 + np.exp(-logits))
        both = np.stack([1 - probability, probability], axis=1)
        probabilities = both[:, columns].astype(np.float32)
        valid = np.array([i not in broken for i in range(len(images))])
        score = both[:, 1].astype(np.float32)
        index = probabilities.argmax(axis=1)
        labels = [class_names[i] for i in index]
        return asking.Answers(
            np.where(valid[:, np.newaxis], probabilities, 0),
            np.where(valid, labels, "").tolist(),
            np.where(valid, index, -1),
            np.where(valid, score, 0),
            (score >= threshold) & valid,
            valid,
        )

    return asking.AskedModel(
        "MODEL",
        ask,
        class_names if tells_names else None,
        dataset_fingerprint=fingerprint,
    )


def judge_by(data_dir, *models, **options):
    return judge.evaluate(models or [fake_model()], str(data_dir), **options)


def test_record_set_of_others_is_judged_as_a_whole(tiny_records):
    model = fake_model(threshold=0.3)
    evaluation = judge_by(tiny_records, model, batch_size=64)
    findings = evaluation.findings
    assert findings.split.num_images == 22 + 9 + 7
    assert findings.temperature == 1
    assert "train, validation, test" in findings.subject
    assert findings.split.baselines is None
    assert findings.split.prediction_sets is None
    assert findings.per_patient is None
    # Of a training that is not known nothing is said.
    assert "training_history.png" not in evaluation.files
    assert "model_card.md" not in evaluation.files
    assert b"chosen on validation" not in evaluation.files["report.html"]
    # Figures follow the served decisions.
    info = input_pipeline.read_dataset_info(str(tiny_records))
    index = input_pipeline.read_index(str(tiny_records), info)
    encoded, labels = [], []
    for split in records.SPLITS:
        files = input_pipeline.split_files(str(tiny_records), info, split)
        encoded += input_pipeline.iterate_encoded(files)
        labels += index[split].labels
    answers = model.ask(encoded)
    expected = np.zeros((2, 2), int)
    np.add.at(expected, (labels, answers.decisions.astype(int)), 1)
    assert findings.split.confusion_matrix == expected.tolist()
    reached = answers.scores >= findings.operating_point
    assert (reached == answers.decisions).all()


def test_export_is_judged_by_its_own_rule_for_patients_and_sets():
    decided = interpret(fake_model(threshold=0.3))
    groups = [f"g{i // 3}" for i in range(len(decided.groups))]
    decided = dataclasses.replace(decided, groups=groups)
    model = dataclasses.replace(
        fake_model(),
        study=calibration.StudyChoice("max", 0.85),
        sets=calibration.SetChoice(0.9, (0.35, 0.0), (20, 3)),
    )
    info = make_info({"test": decided})
    findings = judge._report(model, decided, info, 0, Context()).findings
    patients, sets = findings.per_patient, findings.split.prediction_sets
    assert (patients.rule, patients.operating_point) == ("max", 0.85)
    best = np.array(
        [decided.scores[np.array(groups) == g].max() for g in set(groups)]
    )
    counts = np.array(patients.splits["test"].confusion_matrix)
    assert counts[:, 1].sum() == np.sum(best >= 0.85)
    # One class is in every set, the other from 0.35 on or if decided on.
    several = (decided.probabilities[:, 0] >= 0.35) | (decided.scores < 0.3)
    assert sets.uncertain.value == several.mean()
    assert "Validation has 3 groups" in sets.verdict[-1]


def test_own_record_set_is_judged_by_its_test_split(tiny_records):
    info = input_pipeline.read_dataset_info(str(tiny_records))
    model = fake_model(fingerprint=info.fingerprint)
    findings = judge_by(tiny_records, model).findings
    assert findings.split.num_images == 7
    assert "nearest neighbour" in findings.split.baselines
    # One that saw the images is compared with one that did not.
    others = (model, fake_model(skill=0.1))
    evaluation = judge_by(tiny_records, *others, splits=["train"])
    findings = evaluation.findings
    assert "made with the images of train" in findings.caveats[0]
    assert findings.comparison.num_images == findings.split.num_images == 22
    assert findings.comparison.this == findings.comparison.other == "MODEL"
    page = evaluation.files["report.html"]
    assert b"Compared with MODEL" in page and b"McNemar" in page


def interpret(model, num_images=40, names=None):
    images = asking.Images(
        files=[],
        ids=[f"{i}.png" for i in range(num_images)],
        groups=[f"g{i}" for i in range(num_images)],
        class_names=names or [NAMES[i % 2] for i in range(num_images)],
        positive_class="tumor",
    )
    encoded = [bytes(1000 + 10 * i) for i in range(num_images)]
    return asking.interpret(model, model.ask(encoded), images)


def test_classes_in_another_order_are_matched_by_name():
    straight = interpret(fake_model())
    swapped = interpret(fake_model(SWAPPED, columns=(1, 0)))
    assert straight.positive_index == 1 and swapped.positive_index == 0
    np.testing.assert_allclose(straight.scores, swapped.scores)
    for decided in (straight, swapped):
        is_positive = decided.decisions == decided.positive_index
        reached = decided.scores >= decided.operating_point
        assert (is_positive == reached).all()


def test_server_tells_names_and_threshold_by_its_answers():
    decided = interpret(fake_model(tells_names=False, broken=(3,)))
    assert decided.class_names == NAMES
    assert decided.positive_index == 1
    assert 0.2 < decided.operating_point < 0.6
    # An unreadable image has no answer.
    assert np.flatnonzero(~decided.is_finite).tolist() == [3]


@pytest.mark.parametrize("tells_names", [True, False])
def test_class_that_the_model_does_not_know_is_named(tells_names):
    names = ["sick"] + ["tumor", "no_tumor"] * 20
    with pytest.raises(ValueError, match="images of sick: name the classes"):
        interpret(fake_model(tells_names=tells_names), 41, names)


@pytest.mark.parametrize("tells_names", [True, False])
def test_wrong_class_is_told_before_all_images_are_asked_about(
    tiny_records, tells_names
):
    model = fake_model(("benign", "malignant"), tells_names=tells_names)
    asked = []

    def ask(images):
        asked.extend(images)
        return model.ask(images)

    watched = dataclasses.replace(model, ask=ask)
    with pytest.raises(ValueError, match="benign, malignant apart, but there"):
        judge_by(tiny_records, watched, batch_size=12)
    # One that tells no names is asked until its answers have told them all.
    assert len(asked) == (0 if tells_names else 24)
    with pytest.raises(ValueError, match="tell the same classes apart"):
        straight = dataclasses.replace(fake_model(), ask=ask)
        swapped = fake_model(SWAPPED, columns=(1, 0))
        judge_by(tiny_records, straight, swapped)
    assert len(asked) <= 24  # none for the second one


def test_decisions_against_the_scores_are_refused():
    model = fake_model()

    def ask(images):
        answers = model.ask(images)
        return dataclasses.replace(answers, decisions=~answers.decisions)

    with pytest.raises(ValueError, match="decides against its own scores"):
        interpret(dataclasses.replace(model, ask=ask))


def test_columns_of_the_record_set_part_the_figures(tmp_path):
    info = write_records(tmp_path, {"train": 30, "test": 30})
    index = input_pipeline.read_index(str(tmp_path), info)
    ids = index["train"].ids + index["test"].ids
    rows = [f"{name},{'F' if i % 3 else 'M'},{i}" for i, name in enumerate(ids)]
    text = "\n".join(["id,sex,age", *rows, ""])
    (tmp_path / output.COLUMNS_FILE).write_text(text)
    findings = judge_by(tmp_path, subgroups=["sex", "age"]).findings
    columns = findings.split.subgroups
    sizes = {value: part.num_images for value, part in columns["sex"].items()}
    assert sizes == {"F": 40, "M": 20}
    ages = ["1. 0 to 14", "2. 15 to 29", "3. 30 to 44", "4. 45 to 59"]
    assert list(columns["age"]) == ages
    with pytest.raises(ValueError, match=r"no column view .there is: sex, age"):
        judge_by(tmp_path, subgroups=["view"])


def test_what_cannot_be_judged_is_named_with_what_there_is(tiny_records):
    with pytest.raises(ValueError, match="choose --splits from train, val"):
        judge_by(tiny_records, splits=["tset"])
    swapped = fake_model(SWAPPED, columns=(1, 0))
    with pytest.raises(ValueError, match="same classes apart"):
        judge_by(tiny_records, fake_model(), swapped)


@pytest.mark.parametrize(
    ("scores", "calls", "threshold"),
    [
        ([0.9, 0.2, 0.4, 0.7], "1001", 0.55),
        ([0.2, 0.4], "00", np.nextafter(np.float32(0.4).astype(float), 1)),
        ([0.2, 0.4], "11", np.float32(0.2)),
        ([0.4, 0.4], "01", None),
        ([0.5, 0.4], "01", None),
        ([], "", 0.5),
    ],
)
def test_threshold_lies_between_what_is_called_either_way(
    scores, calls, threshold
):
    called = np.array([call == "1" for call in calls], bool)
    answers = types.SimpleNamespace(
        scores=np.array([*scores, 0.99], np.float32),
        decisions=np.append(called, False),
        valid=np.array([True] * len(scores) + [False]),
    )
    model = types.SimpleNamespace(name="m")
    if threshold is None:
        with pytest.raises(ValueError, match="m decides against its own sc"):
            asking._threshold(model, answers)
        return
    found = asking._threshold(model, answers)
    assert found == pytest.approx(threshold, abs=1e-7)
    above = answers.scores[:-1].astype(np.float64) >= found
    assert np.array_equal(above, called)
