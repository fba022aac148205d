"""Models that someone else trained, judged on any record set."""

import numpy as np
import pytest

from serving.external import asking, judge
from tests.conftest import write_records
from trainer.data import input_pipeline, records
from trainer.data.build import output

NAMES = ("no_tumor", "tumor")


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
        return asking.Answers(
            np.where(valid[:, np.newaxis], probabilities, 0),
            [
                class_names[i] if ok else ""
                for i, ok in zip(index, valid, strict=True)
            ],
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


def fingerprint_of(directory):
    return input_pipeline.read_dataset_info(str(directory)).fingerprint


def test_record_set_of_others_is_judged_as_a_whole(tiny_records):
    found = judge.evaluate([fake_model()], str(tiny_records)).metrics
    split = found["splits"]["test"]
    assert split["num_images"] == 22 + 9 + 7
    assert found["temperature"] == 1
    assert "train, validation, test" in found["subject"]
    assert "baselines" not in split


def test_own_record_set_is_judged_by_its_test_split(tiny_records):
    model = fake_model(fingerprint=fingerprint_of(tiny_records))
    found = judge.evaluate([model], str(tiny_records)).metrics
    assert found["splits"]["test"]["num_images"] == 7
    assert "nearest neighbour" in found["splits"]["test"]["baselines"]
    found = judge.evaluate([model], str(tiny_records), splits=["train"]).metrics
    assert "made with the images of train" in found["caveats"][0]


def test_figures_follow_the_served_decisions(tiny_records):
    model = fake_model(threshold=0.3)
    evaluation = judge.evaluate([model], str(tiny_records), batch_size=64)
    index = input_pipeline.read_index(
        str(tiny_records), input_pipeline.read_dataset_info(str(tiny_records))
    )
    encoded, labels = [], []
    for split in records.SPLITS:
        files = input_pipeline.split_files(
            str(tiny_records),
            input_pipeline.read_dataset_info(str(tiny_records)),
            split,
        )
        encoded += input_pipeline.iterate_encoded(files)
        labels += index[split].labels
    answers = model.ask(encoded)
    split = evaluation.metrics["splits"]["test"]
    assert split["confusion_matrix"] == [
        [
            int(np.sum((np.array(labels) == t) & (answers.decisions == d)))
            for d in (0, 1)
        ]
        for t in (0, 1)
    ]
    scores = answers.scores
    point = evaluation.metrics["operating_point"]
    assert ((scores >= point) == answers.decisions).all()


def interpret(model, images=40, names=None):
    answers = model.ask([bytes(n) for n in range(1000, 1000 + 10 * images, 10)])
    return asking.interpret(
        model,
        answers,
        [f"{i}.png" for i in range(images)],
        [f"g{i}" for i in range(images)],
        names or [NAMES[i % 2] for i in range(images)],
        "tumor",
    )


def test_classes_in_another_order_are_matched_by_name():
    straight = interpret(fake_model())
    swapped = interpret(
        fake_model(class_names=("tumor", "no_tumor"), columns=(1, 0))
    )
    assert straight.positive_index == 1 and swapped.positive_index == 0
    np.testing.assert_allclose(
        straight.predictions.scores(1), swapped.predictions.scores(0)
    )
    for told in (straight, swapped):
        decided = told.predictions.decided(told.positive_index, None)
        is_positive = decided == told.positive_index
        scores = told.predictions.scores(told.positive_index)
        assert (is_positive == (scores >= told.operating_point)).all()


def test_server_tells_names_and_threshold_by_its_answers():
    told = interpret(fake_model(tells_names=False))
    assert told.class_names == NAMES
    assert told.positive_index == 1
    assert 0.2 < told.operating_point < 0.6


def test_unreadable_image_has_no_answer():
    told = interpret(fake_model(broken=(3,)))
    assert np.flatnonzero(~told.predictions.is_finite).tolist() == [3]


@pytest.mark.parametrize("tells_names", [True, False])
def test_class_that_the_model_does_not_know_is_named(tells_names):
    names = ["sick"] + ["tumor", "no_tumor"] * 20
    with pytest.raises(ValueError, match="images of sick: name the classes"):
        interpret(fake_model(tells_names=tells_names), 41, names)


def test_decisions_against_the_scores_are_refused():
    model = fake_model()

    def ask(images):
        answers = model.ask(images)
        decisions = ~answers.decisions
        return asking.Answers(**{**vars(answers), "decisions": decisions})

    with pytest.raises(ValueError, match="decides against its own scores"):
        interpret(asking.AskedModel("M", ask, NAMES))


def test_columns_of_the_record_set_part_the_figures(tmp_path):
    info = write_records(tmp_path, {"train": 30, "test": 30})
    index = input_pipeline.read_index(str(tmp_path), info)
    ids = index["train"].ids + index["test"].ids
    rows = [f"{name},{'F' if i % 3 else 'M'},{i}" for i, name in enumerate(ids)]
    text = "\n".join(["id,sex,age", *rows, ""])
    (tmp_path / output.COLUMNS_FILE).write_text(text)
    found = judge.evaluate(
        [fake_model()], str(tmp_path), subgroups=["sex", "age"]
    ).metrics["splits"]["test"]["subgroups"]
    assert {v: part["num_images"] for v, part in found["sex"].items()} == {
        "F": 40,
        "M": 20,
    }
    assert list(found["age"]) == [
        "1. 0 to 14",
        "2. 15 to 29",
        "3. 30 to 44",
        "4. 45 to 59",
    ]
    with pytest.raises(ValueError, match=r"no column view .there is: sex, age"):
        judge.evaluate([fake_model()], str(tmp_path), subgroups=["view"])


def test_absent_split_is_named_with_those_there_are(tiny_records):
    with pytest.raises(ValueError, match="choose --splits from train, val"):
        judge.evaluate([fake_model()], str(tiny_records), splits=["tset"])


def test_two_models_are_compared_on_the_same_images(tiny_records):
    evaluation = judge.evaluate(
        [fake_model(), fake_model(skill=0.1)], str(tiny_records)
    )
    comparison = evaluation.metrics["comparison"]
    assert comparison["num_images"] == 38
    assert comparison["this"] == comparison["other"] == "MODEL"
    page = evaluation.files["report.html"].decode()
    assert "Compared with MODEL" in page
    assert "McNemar" in page


def test_models_of_other_classes_cannot_be_compared(tiny_records):
    swapped = fake_model(class_names=("tumor", "no_tumor"), columns=(1, 0))
    with pytest.raises(ValueError, match="same classes apart"):
        judge.evaluate([fake_model(), swapped], str(tiny_records))


def test_report_of_an_unknown_training_leaves_it_out(tiny_records):
    files = judge.evaluate([fake_model()], str(tiny_records)).files
    assert "training_history.png" not in files
    assert "model_card.md" not in files
    assert "chosen on validation" not in files["report.html"].decode()
