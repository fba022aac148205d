"""Runs commands in the process of the tests."""

import google.auth
import pytest
from absl import flags
from absl.testing import flagsaver
from google.auth import credentials, exceptions

from trainer import startup


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command without credentials; returns what it prints."""

    def sign_in(*_, **__):
        raise exceptions.DefaultCredentialsError("none")

    monkeypatch.setattr(google.auth, "default", sign_in)
    monkeypatch.setattr(startup, "set_up_logging", lambda _: None)

    def run(module, *arguments):
        before = set(flags.FLAGS)
        with flagsaver.flagsaver():
            module._define_flags()
            try:
                module.main(flags.FLAGS([module.__name__, *arguments]))
            finally:
                for name in set(flags.FLAGS) - before:
                    delattr(flags.FLAGS, name)
        return capsys.readouterr().out

    return run


@pytest.fixture
def signed_in(run, monkeypatch):
    """Lets commands use credentials that no server would accept."""
    found = (credentials.AnonymousCredentials(), "project")
    monkeypatch.setattr(google.auth, "default", lambda *_, **__: found)
