"""What users set for other work does not reach a command."""

import json
import os
import subprocess
import sys

from tests.samples import ROOT

CODE = """
from trainer import startup
startup.import_keras()
import keras
from trainer.report import plots
c = keras.config
print(c.backend(), c.floatx(), c.image_data_format(), c.epsilon())
print(keras.layers.Dense(1).dtype_policy.name)
"""


def test_settings_of_keras_and_matplotlib_for_other_work_count_for_nothing(
    tmp_path,
):
    settings = {
        "backend": "jax",
        "floatx": "float16",
        "image_data_format": "channels_first",
        "epsilon": 1e-3,
    }
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=ROOT,
        env=os.environ
        | {
            "KERAS_HOME": str(tmp_path),
            "KERAS_BACKEND": "torch",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [
        *("tensorflow", "float32", "channels_last", "1e-07"),
        "float32",
    ]
