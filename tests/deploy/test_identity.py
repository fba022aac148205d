"""No key is in any file, and the roles are those of what exists."""

import re
import subprocess

import pytest

from tests.conftest import ROOT

KEYS = (
    r"-----BEGIN [A-Z ]*PRIVATE KEY",
    r'"private_key(_id)?"\s*:',
    r"\bAIza[0-9A-Za-z_-]{35}",
    r"\bya29\.[0-9A-Za-z_-]{20}",
    r"\bAKIA[0-9A-Z]{16}\b",
    r"GOOGLE_APPLICATION_CREDENTIALS\s*[=:]\s*\S+\.json",
)


def tracked_files():
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_no_file_of_the_project_has_a_key():
    for path in tracked_files():
        if not path.is_file() or path == ROOT / "tests/deploy/test_identity.py":
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for pattern in KEYS:
            assert not re.search(pattern, text), (path, pattern)


def test_patterns_find_keys():
    made_up = (
        "-----BEGIN RSA PRIVATE KEY-----",
        '{"private_key": "x"}',
        "AIza" + 35 * "a",
        "ya29." + 30 * "a",
        "AKIA" + 16 * "A",
        "GOOGLE_APPLICATION_CREDENTIALS=/key.json",
    )
    for pattern, text in zip(KEYS, made_up, strict=True):
        assert re.search(pattern, text)


def test_accounts_of_the_manifests_have_their_roles_in_the_readme():
    text = (ROOT / "deploy/README.md").read_text()
    for path in (ROOT / "deploy/kubernetes").glob("*/serviceaccount.yaml"):
        (name,) = re.findall(r"^  name: (\S+)$", path.read_text(), re.M)
        assert f"`{name}`" in text or f"/{name}]" in text
    # Nothing that reaches further than what it is for.
    roles = set(re.findall(r"roles/[\w.]+", text))
    assert not roles & {"roles/owner", "roles/editor", "roles/storage.admin"}
