"""Types of Vertex AI's API, its client library, and its errors as sentences."""

import contextlib
import json
import logging
import sys
from collections.abc import Iterator

import google.auth
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions
from google.protobuf import json_format


def parse(kind: str, fields: dict):
    """A message of the API of fields by name.

    Args:
        kind: a type of `aiplatform_v1`, for example CustomJob.
        fields: in its JSON form.

    Raises:
        json_format.ParseError: if it has a field or value that the type has
            not.
    """
    from google.cloud import aiplatform_v1

    return getattr(aiplatform_v1, kind).from_json(json.dumps(fields))


def connect(project: str, region: str):
    """The client library, set to a project and a region.

    Args:
        project: "" for that of the default credentials.

    Raises:
        ValueError: if there is no project, or no such region.
        google.auth.exceptions.GoogleAuthError: if there are no credentials.
    """
    # Its warnings would come before the sentence about the same.
    logging.getLogger("google.auth").setLevel(logging.ERROR)
    _, default_project = google.auth.default()
    if not project and not default_project:
        raise ValueError("--project must be given: the credentials name none.")
    # It takes seconds to import.
    from google.cloud import aiplatform

    aiplatform.init(project=project or default_project, location=region)
    return aiplatform


@contextlib.contextmanager
def one_sentence(command: str) -> Iterator[None]:
    """Ends the process with a sentence where a user can mend an error."""
    try:
        yield
    except (
        *(ImportError, ValueError, OSError, RuntimeError),
        *(json_format.ParseError, exceptions.GoogleAPIError),
        auth_exceptions.GoogleAuthError,
    ) as error:
        sys.exit(f"{command}: {_explain(error)}")


def _explain(error: Exception) -> str:
    said = " ".join(str(getattr(error, "message", "") or error).split())
    if isinstance(error, ImportError):
        return f"{said}: pip install -e '.[cloud]'."
    if isinstance(
        error, (auth_exceptions.GoogleAuthError, exceptions.Unauthorized)
    ):
        return (
            f"no usable credentials ({said}): run `gcloud auth "
            "application-default login`, or run as a service account."
        )
    if isinstance(error, exceptions.Forbidden):
        return f"permission denied ({said}): deploy/README.md lists the roles."
    if isinstance(error, exceptions.GoogleAPIError):
        return f"Vertex AI answered {type(error).__name__}: {said}"
    return said
