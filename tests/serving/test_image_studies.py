"""Images that are one study: as evaluation combines them, and as users ask."""

import dataclasses
import json

import numpy as np
import pytest

from serving import client, image_files, image_studies, predict
from tests.evaluation.samples import random_predictions
from tests.serving import brightness
from tests.serving.test_predict import ask
from trainer.evaluation import studies


def answer_of(p, i, **fields):
    """What a model says that is evaluated as `p`."""
    label, decision = p.logits[i].argmax(), p.decisions[i]
    is_binary = p.positive_index is not None
    return client.Prediction(
        probabilities=tuple(p.probabilities[i]),
        label=p.class_names[label],
        label_index=int(label),
        score=float(p.scores[i]),
        decision=bool(decision == p.positive_index) if is_binary else None,
        valid=True,
        decision_label=p.class_names[decision] if is_binary else None,
        class_names=p.class_names,
        **fields,
    )


@pytest.mark.parametrize("rule", ["mean", "max", "top_k:2", "noisy_or"])
@pytest.mark.parametrize("positive_index", [0, 1])
def test_client_decides_on_a_study_as_evaluation_does(rule, positive_index):
    p = dataclasses.replace(
        random_predictions(50, 2, 4, 17), positive_index=positive_index
    )
    grouped = studies.by_group(p, rule, 0.7)
    fields = {"study_rule": rule, "study_threshold": 0.7}
    invalid = client.Prediction((0.0, 0.0), "", -1, 0.0, False, False)
    for g, name in enumerate(grouped.ids):
        members = np.flatnonzero(np.array(p.groups) == name)
        combined = client.combine(
            [invalid, *(answer_of(p, i, **fields) for i in members)]
        )
        assert combined.score == pytest.approx(grouped.scores[g])
        expected = grouped.probabilities[g].tolist()
        assert combined.probabilities == pytest.approx(expected)
        decided = p.class_names[grouped.decisions[g]]
        assert combined.decision_label == decided
        assert combined.decision == (decided == p.class_names[positive_index])
        assert combined.threshold == 0.7


@pytest.mark.parametrize(("threshold", "is_reached"), [(0.75, 1), (0.751, 0)])
def test_study_at_its_threshold_is_positive(threshold, is_reached):
    p = dataclasses.replace(random_predictions(2, 2, 4, 1), positive_index=1)
    fields = {"study_rule": "max", "study_threshold": threshold}
    images = [
        dataclasses.replace(answer_of(p, 0, **fields), probabilities=pair)
        for pair in ((0.25, 0.75), (0.5, 0.5))
    ]
    combined = client.combine(images)
    assert combined.score == 0.75 and combined.decision == is_reached
    assert combined.decision_label == p.class_names[is_reached]


def test_of_more_classes_the_mean_is_named_though_no_image_is_called_so():
    p = random_predictions(3, 3)
    names, rows = p.class_names, ([0.5, 0.4, 0.1], [0.0, 0.4, 0.6])
    combined = client.combine(
        dataclasses.replace(answer_of(p, 0), probabilities=tuple(row))
        for row in rows
    )
    assert combined.label == names[1] and combined.label_index == 1
    assert combined.score == pytest.approx(0.4)
    assert combined.decision is combined.decision_label is None


def test_study_without_a_name_or_an_image_is_refused():
    one = answer_of(random_predictions(2), 0)
    with pytest.raises(ValueError, match="export it again"):
        client.combine([dataclasses.replace(one, class_names=None)])
    with pytest.raises(ValueError, match="at least one prediction"):
        client.combine([])
    invalid = dataclasses.replace(one, valid=False)
    assert not client.combine([invalid, invalid]).valid
    # Without a threshold for patients nothing is decided.
    assert client.combine([one, one]).decision is None


def test_volumes_patients_and_folders_are_studies():
    one = answer_of(random_predictions(2), 0, out_of_distribution=0.5)
    far = dataclasses.replace(one, out_of_distribution=3.0)
    answers = [
        image_files.Answer("a/v.nii#0", one, None, "a/v.nii"),
        image_files.Answer("a/1.dcm", far, None, "", "Doe"),
        image_files.Answer("a/v.nii#1", far, None, "a/v.nii"),
        image_files.Answer("a/2.dcm", one, None, "", "Roe"),
        image_files.Answer("b/3.dcm", far, None, "", "Doe"),
        image_files.Answer("b/4.png", None, "it is no image"),
        image_files.Answer("b/5.dcm", far, None, "", "Doe"),
    ]

    def combined(by):
        return [
            (a.file, a.num_images, a.prediction and a.prediction.valid)
            for a in image_studies.combine(answers, by)
        ]

    assert combined("folder") == [
        ("a/v.nii", 2, True),
        ("a", 2, True),
        ("b", 2, True),
    ]
    assert combined("patient") == [
        ("a/v.nii", 2, True),
        ("a/1.dcm", 3, True),
        ("a/2.dcm", 1, True),
        ("b", 1, None),
    ]
    of_folders = image_studies.combine(answers, "folder")
    unlike = [a.prediction.out_of_distribution for a in of_folders]
    assert unlike == [1.75, 1.75, 3.0]
    assert "Doe" not in repr(image_studies.combine(answers, "patient"))
    assert "Doe" not in predict.format_json(of_folders, "t", "m")


@pytest.mark.parametrize("transport", ["rest", "grpc"])
def test_folder_is_answered_as_one(server, tmp_path, transport):
    for name, value in (("a/x", 51), ("a/y", 102), ("b/x", 153), ("b/y", 204)):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(brightness.encode_image(value))
    (tmp_path / "b" / "z.png").write_text("no image")
    target = server.rest_target
    if transport == "grpc":
        target = f"grpc://127.0.0.1:{server.grpc_port}"
    done = ask(target, "--by=folder", "--json", tmp_path)
    assert done.returncode == 1 and "z.png" in done.stderr
    found = json.loads(done.stdout)["predictions"]
    assert [f["file"] for f in found] == [f"{tmp_path}/a", f"{tmp_path}/b"]
    assert [f["num_images"] for f in found] == [2, 2]
    expected = [1 - 0.8 * 0.6, 1 - 0.4 * 0.2]
    assert [f["score"] for f in found] == pytest.approx(expected, abs=1e-6)
    assert [f["decision_label"] for f in found] == ["dark", "bright"]
    assert found[0]["label"] == "bright"


def test_answer_with_several_possible_classes_is_uncertain():
    one = answer_of(random_predictions(2), 0)
    names = one.class_names
    unsure = dataclasses.replace(one, prediction_set=(True, True))
    sure = dataclasses.replace(one, prediction_set=(True, False))
    table = predict.format_table(
        [
            image_files.Answer("a", sure, None),
            image_files.Answer("b", unsure, None),
        ]
    )
    _, first, second = table.splitlines()
    assert "uncertain" not in first
    assert f"(uncertain: {names[0]} or {names[1]})" in second
