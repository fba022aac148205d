"""Says what to do about an error of Google's API."""

import re

from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions

ERRORS = (exceptions.GoogleAPIError, auth_exceptions.GoogleAuthError)
_QUOTAS = "https://console.cloud.google.com/iam-admin/quotas"
# Permission, as the API names it -> the least role that has it.
_ROLES = (
    ("actAs", "roles/iam.serviceAccountUser on --service_account"),
    ("storage.", "roles/storage.objectUser on the bucket"),
    ("cloudkms.", "roles/cloudkms.cryptoKeyEncrypterDecrypter on --kms_key"),
    ("artifactregistry.", "roles/artifactregistry.reader on the repository"),
    ("compute.", "roles/compute.networkUser on the network"),
    ("aiplatform.", "roles/aiplatform.user on the project"),
)


def explain(error: Exception, project: str, region: str, flag: str) -> str:
    """One sentence that says what to do about one of `ERRORS`.

    Args:
        project: that was asked.
        region: likewise.
        flag: that names what was to be made, for example --name.
    """
    said = _first_line(error)
    if isinstance(error, auth_exceptions.GoogleAuthError) and not isinstance(
        error, auth_exceptions.TransportError
    ):
        return (
            "there are no usable credentials: run `gcloud auth "
            "application-default login`, or run as a service account."
        )
    if isinstance(error, exceptions.Unauthorized):
        return (
            "the credentials are not accepted or have run out: run `gcloud "
            "auth application-default login` again."
        )
    if isinstance(error, exceptions.Forbidden):
        return _explain_forbidden(said, project)
    if isinstance(error, exceptions.TooManyRequests):
        return _explain_quota(said, region)
    if isinstance(error, exceptions.Conflict):
        return f"it exists already ({said}): give another {flag}."
    if isinstance(error, exceptions.NotFound):
        return (
            f"it was not found ({said}): check --project={project}, "
            f"--region={region} and the resources that the flags name."
        )
    if isinstance(error, exceptions.BadRequest):
        return f"Vertex AI refused it ({said}): correct the flag it names."
    return (
        f"Vertex AI could not be reached or failed ({type(error).__name__}: "
        f"{said}): run the same command again; it looks first whether "
        f"{flag} is there already."
    )


def _first_line(error: Exception) -> str:
    text = getattr(error, "message", "") or str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _explain_forbidden(said: str, project: str) -> str:
    if "SERVICE_DISABLED" in said or "has not been used" in said:
        return (
            f"Vertex AI is not enabled in {project}: run `gcloud services "
            f"enable aiplatform.googleapis.com --project={project}`."
        )
    if "VPC Service Controls" in said or "vpcServiceControls" in said:
        return (
            f"a service perimeter forbids it ({said}): run the command from "
            "within the perimeter, and keep image, bucket and key in it."
        )
    role = next(
        (role for part, role in _ROLES if part in said),
        "roles/aiplatform.user on the project",
    )
    return f"permission denied ({said}): it takes {role}."


def _explain_quota(said: str, region: str) -> str:
    match = re.search(r"custom_model_\w+|[\w.]+\.googleapis\.com/\w+", said)
    metric = match[0] if match else "the quota named"
    return (
        f"the quota does not allow it in {region} ({said}): ask for more of "
        f"{metric} at {_QUOTAS}, or give another --region, --machine_type or "
        "fewer --num_workers."
    )
