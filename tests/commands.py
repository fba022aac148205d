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
        others = {name: flags.FLAGS[name] for name in flags.FLAGS}
        overrides = {name: f.allow_override for name, f in others.items()}
        with flagsaver.flagsaver():
            try:
                # Other commands in this process have flags of the same names.
                for flag in others.values():
                    flag.allow_override = True
                module._define_flags()
                module.main(flags.FLAGS([module.__name__, *arguments]))
            finally:
                for name in list(flags.FLAGS):
                    if flags.FLAGS[name] is not others.get(name):
                        delattr(flags.FLAGS, name)
                for name, flag in others.items():
                    if name not in flags.FLAGS:
                        flags.FLAGS[name] = flag
                for name, flag in others.items():
                    flag.allow_override = overrides[name]
        return capsys.readouterr().out

    return run


@pytest.fixture
def signed_in(run, monkeypatch):
    """Lets commands use credentials that no server would accept."""
    found = (credentials.AnonymousCredentials(), "project")
    monkeypatch.setattr(google.auth, "default", lambda *_, **__: found)
