"""No key is in any file, and the roles are those of what exists."""

import re
import subprocess

import pytest

from tests.samples import ROOT

KEYS = (
    r"-----BEGIN [A-Z ]*PRIVATE KEY",
    r'"private_key(_id)?"\s*:',
    r"\bAIza[0-9A-Za-z_-]{35}",
    r"\bya29\.[0-9A-Za-z_-]{20}",
    r"\bAKIA[0-9A-Z]{16}\b",
    r"GOOGLE_APPLICATION_CREDENTIALS\s*[=:]\s*\S+\.json",
)


def grep(directory, *options):
    """Lines with a key, in a directory."""
    keys = [f"-e{key}" for key in KEYS]
    done = subprocess.run(
        ["git", "grep", "-E", *keys, *options],
        cwd=directory,
        capture_output=True,
        text=True,
    )
    if done.returncode > 1:
        pytest.skip("this is no git checkout")
    return done.stdout.splitlines()


def test_no_file_of_the_project_has_a_key():
    assert grep(ROOT, "--", ":!tests/deploy/test_identity.py") == []


def test_patterns_find_keys(tmp_path):
    made_up = (
        "-----BEGIN RSA PRIVATE KEY-----",
        '{"private_key": "x"}',
        "AIza" + 35 * "a",
        "ya29." + 30 * "a",
        "AKIA" + 16 * "A",
        "GOOGLE_APPLICATION_CREDENTIALS=/key.json",
    )
    (tmp_path / "keys").write_text("\n".join(("none", *made_up)))
    assert grep(tmp_path, "-h", "--no-index") == list(made_up)


def test_accounts_of_the_manifests_have_their_roles_in_the_readme():
    text = (ROOT / "deploy/README.md").read_text()
    for path in (ROOT / "deploy/kubernetes").glob("*/serviceaccount.yaml"):
        (name,) = re.findall(r"^  name: (\S+)$", path.read_text(), re.M)
        assert f"`{name}`" in text or f"/{name}]" in text
    # Nothing that reaches further than what it is for.
    roles = set(re.findall(r"roles/[\w.]+", text))
    assert not roles & {"roles/owner", "roles/editor", "roles/storage.admin"}
