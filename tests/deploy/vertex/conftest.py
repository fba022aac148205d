import google.auth
import pytest
from google.auth import credentials


@pytest.fixture
def signed_in(run, monkeypatch):
    """Lets commands use credentials that no server would accept."""
    found = (credentials.AnonymousCredentials(), "project")
    monkeypatch.setattr(google.auth, "default", lambda *_, **__: found)
