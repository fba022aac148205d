"""Models that someone else trained, judged on any record set."""

import dataclasses

import numpy as np
import pytest

from serving.external import asking, judge
from tests.samples import write_records
from trainer.data import input_pipeline, records
from trainer.data.build import output

NAMES = ("no_tumor", "tumor")


def fake_model(
    *,
    swapped=False,
    threshold=0.4,
    tells_names=True,
    fingerprint="",
    skill=1.0,
    broken=(),
):
    """A model that knows bright squares by the mean of the encoded bytes."""
    order = -1 if swapped else 1
    class_names = NAMES[::order]

    def ask(images):
        generator = np.random.default_rng([len(image) for image in images])
        logits = np.array([len(image) / 100 for image in images])
        logits = skill * (logits - 12) + generator.normal(size=len(images))
        probability = 1 / (1 + np.exp(-logits))
        both = np.stack([1 - probability, probability], axis=1)
        probabilities = both[:, ::order].astype(np.float32)
        valid = ~np.isin(np.arange(len(images)), broken)
        score = both[:, 1].astype(np.float32)
        index = np.where(valid, probabilities.argmax(axis=1), -1)
        return asking.Answers(
            np.where(valid[:, np.newaxis], probabilities, 0),
            [(*class_names, "")[i] for i in index],
            index,
            np.where(valid, score, 0),
            (score >= threshold) & valid,
            valid,
        )

    names = class_names if tells_names else None
    return asking.AskedModel(
        "MODEL", ask, names, dataset_fingerprint=fingerprint
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
    # Of a training that is not known nothing is said.
    assert "training_history.png" not in evaluation.files
    assert "model_card.md" not in evaluation.files
    assert b"chosen on validation" not in evaluation.files["report.html"]
    # The figures follow the served decisions.
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


def test_own_record_set_is_judged_by_its_test_split(tiny_records):
    info = input_pipeline.read_dataset_info(str(tiny_records))
    model = fake_model(fingerprint=info.fingerprint)
    findings = judge_by(tiny_records, model).findings
    assert findings.split.num_images == 7
    assert "nearest neighbour" in findings.split.baselines


def interpret(model, names=NAMES * 20):
    ids = [f"{i}.png" for i in range(len(names))]
    images = asking.Images([], ids, ids, list(names), "tumor")
    encoded = [bytes(1000 + 10 * i) for i in range(len(names))]
    return asking.interpret(model, model.ask(encoded), images)


def test_classes_in_another_order_are_matched_by_name():
    straight = interpret(fake_model())
    swapped = interpret(fake_model(swapped=True))
    assert straight.positive_index == 1 and swapped.positive_index == 0
    np.testing.assert_allclose(straight.scores, swapped.scores)
    for decided in (straight, swapped):
        is_positive = decided.scores >= decided.operating_point
        decisions = decided.decisions == decided.positive_index
        np.testing.assert_array_equal(decisions, is_positive)


def test_server_tells_names_and_threshold_by_its_answers():
    decided = interpret(fake_model(tells_names=False))
    assert decided.class_names == NAMES
    assert decided.positive_index == 1
    assert 0.2 < decided.operating_point < 0.6


def test_unreadable_image_has_no_answer():
    decided = interpret(fake_model(broken=(3,)))
    assert np.flatnonzero(~decided.is_finite).tolist() == [3]


@pytest.mark.parametrize("tells_names", [True, False])
def test_class_that_the_model_does_not_know_is_named(tells_names):
    model = fake_model(tells_names=tells_names)
    with pytest.raises(ValueError, match="images of sick: name the classes"):
        interpret(model, ("sick", *NAMES[::-1] * 20))


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
    assert list(columns["age"]) == [
        *("1. 0 to 14", "2. 15 to 29", "3. 30 to 44", "4. 45 to 59")
    ]
    with pytest.raises(ValueError, match=r"no column view .there is: sex, age"):
        judge_by(tmp_path, subgroups=["view"])


def test_absent_split_is_named_with_those_there_are(tiny_records):
    with pytest.raises(ValueError, match="choose --splits from train, val"):
        judge_by(tiny_records, splits=["tset"])


def test_two_models_are_compared_on_images_of_a_training(tiny_records):
    info = input_pipeline.read_dataset_info(str(tiny_records))
    models = fake_model(fingerprint=info.fingerprint), fake_model(skill=0.1)
    evaluation = judge_by(tiny_records, *models, splits=["train"])
    comparison = evaluation.findings.comparison
    assert comparison.num_images == 22
    assert comparison.this == comparison.other == "MODEL"
    page = evaluation.files["report.html"]
    assert b"Compared with MODEL" in page and b"McNemar" in page
    caveat = "made with the images of train"
    assert caveat in evaluation.findings.caveats[0]


def test_models_of_other_classes_cannot_be_compared(tiny_records):
    with pytest.raises(ValueError, match="same classes apart"):
        judge_by(tiny_records, fake_model(), fake_model(swapped=True))
