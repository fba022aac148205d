"""The client over both protocols, against the local server."""

import numpy as np
import pytest

from serving import client
from tests.serving import conftest


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_images_give_the_model_s_predictions(
    protocol, grpc_target, rest_target, images
):
    target = {"grpc": grpc_target, "rest": rest_target}[protocol]
    with client.Client(target, conftest.MODEL_NAME) as asked:
        predictions = asked.predict(images)
    np.testing.assert_allclose(
        [p.probabilities for p in predictions],
        conftest.expected_probabilities(),
        atol=1e-6,
    )
    assert [p.label for p in predictions] == ["dark", "bright", "dark"]
    assert [p.label_index for p in predictions] == [0, 1, 0]
    assert [p.decision for p in predictions] == [False, True, False]
    assert [p.valid for p in predictions] == [True, True, False]


def test_both_protocols_give_equal_results(grpc_target, rest_target, images):
    answers = []
    for target in (grpc_target, rest_target):
        with client.Client(target, conftest.MODEL_NAME) as asked:
            answers.append(
                (asked.predict(images), asked.status(), asked.metadata())
            )
    assert answers[0] == answers[1]
    assert answers[0][1] == [client.VersionStatus(1, "AVAILABLE", "")]
    assert (
        "serving_default"
        in (answers[0][2]["metadata"]["signature_def"]["signature_def"])
    )
