import json
import subprocess

import pytest

from trainer.export import blessing, signature, versions


@pytest.fixture
def version(tmp_path):
    path = tmp_path / "3"
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"graph")
    versions.write_manifest(str(path), {"members": 1})
    return path


def check(name, passed=True):
    return {"name": name, "passed": passed, "detail": f"{name} was seen"}


def test_version_is_published_if_all_checks_passed(version):
    content = blessing.write_blessing(str(version), [check("a"), check("b")])
    assert blessing.read_blessing(str(version)) == content
    assert blessing.refusal(str(version)) == ""


@pytest.mark.parametrize("order", [1, -1])
def test_one_failed_check_is_named_and_refuses(version, order):
    checks = [check("size"), check("latency", False)][::order]
    assert not blessing.write_blessing(str(version), checks)["blessed"]
    assert blessing.refusal(str(version)) == (
        f"{version} failed when it was tried: latency (latency was seen)."
    )


@pytest.mark.parametrize("text", [None, "[]", "{half", "\ufeff", "null"])
def test_version_without_a_readable_blessing_is_not_published(version, text):
    if text is not None:
        (version / signature.BLESSING_FILE).write_text(text)
    assert "has not been tried" in blessing.refusal(str(version))


@pytest.mark.parametrize("blessed", [False, None, 1, "yes"])
def test_only_true_blesses(version, blessed):
    content = blessing.write_blessing(str(version), [check("a")])
    path = version / signature.BLESSING_FILE
    path.write_text(json.dumps(content | {"blessed": blessed}))
    assert "failed when it was tried" in blessing.refusal(str(version))


def test_blessing_of_other_files_is_none_of_these(version):
    blessing.write_blessing(str(version), [check("a")])
    versions.write_manifest(str(version), {"members": 2})
    assert "has changed since it was tried" in blessing.refusal(str(version))


@pytest.mark.parametrize(
    ("written", "stderr", "said"),
    [
        ([check("a")], "", ""),
        ([check("a", False)], "noise", "failed when it was tried: a"),
        (None, "first\nlast words\n", "could not be tried: last words"),
        (None, "", "could not be tried: exit code 7"),
    ],
)
def test_another_process_tries_it_alone(
    version, monkeypatch, written, stderr, said
):
    # Of an earlier trial, which says nothing about this one.
    blessing.write_blessing(str(version), [])
    monkeypatch.setenv("TF_CONFIG", "{}")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("KEPT", "1")

    def run(command, env, **_):
        assert command[1:] == [
            *("-m", "trainer.export.blessing"),
            *(f"--version_dir={version}", "--data_dir=records"),
            "--predictions=predictions.csv",
        ]
        assert "TF_CONFIG" not in env and env["KEPT"] == "1"
        assert env["CUDA_VISIBLE_DEVICES"] == "-1"
        assert env["PYTHONPATH"].endswith(":elsewhere")
        assert not (version / signature.BLESSING_FILE).exists()
        if written:
            blessing.write_blessing(str(version), written)
        return subprocess.CompletedProcess(command, 7, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    refusal = blessing.bless_in_new_process(
        str(version), "records", "predictions.csv"
    )
    assert said in refusal and bool(said) == bool(refusal)
