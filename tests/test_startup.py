"""What users set for other work does not reach a command."""

import json
import os
import subprocess
import sys

from tests.samples import ROOT

CODE = """
from absl import flags
from trainer import startup

flags.DEFINE_string("place", "", "A path.")

def main(_):
    startup.import_keras()
    import keras
    from trainer.report import plots
    c = keras.config
    print(c.backend(), c.floatx(), c.image_data_format(), c.epsilon())
    print(keras.layers.Dense(1).dtype_policy.name)
    print(flags.FLAGS.place, "f\u00fcr \u80bf\u7624")

startup.run(main)
"""


def test_surroundings_of_a_command_neither_change_nor_end_it(
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
        [sys.executable, "-c", CODE, "--place=~/x"],
        cwd=ROOT,
        env=os.environ
        | {
            "KERAS_HOME": str(tmp_path),
            "KERAS_BACKEND": "torch",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "PYTHONIOENCODING": "cp1252",
            "HOME": "/home/someone",
        },
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode("cp1252").split() == [
        *("tensorflow", "float32", "channels_last", "1e-07"),
        "float32",
        *("/home/someone/x", "für", r"\u80bf\u7624"),
    ]
