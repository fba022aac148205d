"""What users of the commands get wrong is one line, with the way out."""

import os

import pytest

from tests import processes
from tests.serving import brightness

BASE_OR_FILE = "Pass --model_base_path and --model_name, or"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("predict --target=http://127.0.0.1:1", "cannot be reached"),
        ("predict --target=nowhere", "grpc://HOST:PORT"),
        ("predict --target=http://h:1 --token_file=/nowhere", "/nowhere"),
        ("load_test --target={rest_target}", "does not serve model 'm'"),
        ("local_server --model_name=", BASE_OR_FILE),
        ("local_server", BASE_OR_FILE),
        (
            "local_server --model_name= --model_config_file=/nowhere",
            "must be a file. Received: /nowh",
        ),
        ("local_server --model_config_file=a", "Pass either"),
        (
            "local_server --model_base_path={folder}",
            "--model_base_path must hold a directory with a numeric name",
        ),
        (
            "local_server --engine=tensorflow_model_server "
            "--model_base_path={saved_models}",
            "Install TF Serving, or use --engine=local",
        ),
    ],
)
def test_user_s_mistake_is_one_line(
    rest_target, saved_models, tmp_path, command, message
):
    image = tmp_path / "a.png"
    image.write_bytes(brightness.encode_image(51))
    module, *flags = command.format(
        rest_target=rest_target, folder=tmp_path, saved_models=saved_models
    ).split()
    files = [] if module == "local_server" else [str(image)]
    done = processes.run(
        *(f"serving.{module}", "--model_name=m", *flags, *files),
        env={**os.environ, "PATH": "/nowhere"},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"serving.{module}: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
