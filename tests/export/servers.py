"""An export in sessions of other TensorFlows, whose TF Serving may serve it.

`make test-servers` puts these into environments of their own.
"""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.export import examples
from trainer.export import oldest_tensorflow, signature

BROKEN = [b"", b"no image", examples.IMAGES[1][:50]]


@pytest.mark.parametrize("version", [oldest_tensorflow.OLDEST, "2.19"])
def test_other_tensorflow_gives_the_same_answers(
    version, exported, signatures, tmp_path
):
    encoded = np.array([*examples.IMAGES, *BROKEN], object)
    given = {
        signature.SERVING_DEFAULT: encoded,
        signature.EXPLAIN: encoded,
        signature.PIXELS: examples.prepare(examples.IMAGES),
    }
    np.savez(tmp_path / "inputs.npz", **given)
    (tmp_path / "ops.txt").write_text(" ".join(oldest_tensorflow.OPS))
    done = subprocess.run(
        [
            f"{sys.prefix}/tensorflow-{version}/bin/python",
            str(pathlib.Path(__file__).with_name("session_calls.py")),
            exported,
            *(tmp_path / n for n in ("inputs.npz", "ops.txt", "answers.npz")),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    used, *absent = done.stdout.split()
    assert used.startswith(f"{version}.")
    assert absent == []
    answers = np.load(tmp_path / "answers.npz", allow_pickle=True)
    for name, values in given.items():
        for key, expected in signatures[name](list(values)).items():
            found = answers[f"{name}/{key}"]
            if expected.dtype.kind == "f":
                np.testing.assert_allclose(found, expected, 1e-4, 1e-5)
            elif key != signature.OVERLAY:
                np.testing.assert_array_equal(found, expected)
    valid = answers[f"{signature.EXPLAIN}/{signature.VALID}"]
    assert valid.tolist() == [True] * 4 + [False] * 3
