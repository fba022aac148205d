"""Sends a job to Vertex AI and watches it."""

import time

import google.auth

_ENDED = (
    "JOB_STATE_SUCCEEDED",
    "JOB_STATE_FAILED",
    "JOB_STATE_CANCELLED",
    "JOB_STATE_EXPIRED",
    "JOB_STATE_PARTIALLY_SUCCEEDED",
)
# Kind of the API's type -> its collection, in the API and in `gcloud ai`, and
# the page of the console.
_NAMES = {
    "CustomJob": ("custom_job", "custom-jobs", "training"),
    "HyperparameterTuningJob": (
        "hyperparameter_tuning_job",
        "hp-tuning-jobs",
        "hyperparameter-tuning",
    ),
}


def find_project(project: str) -> str:
    """The project given, or else that of the default credentials.

    Raises:
        ValueError: if there is none.
        google.auth.exceptions.GoogleAuthError: if there are no credentials.
    """
    if project:
        return project
    _, found = google.auth.default()
    if not found:
        raise ValueError(
            "--project must be given: the credentials name none (or run "
            "`gcloud config set project PROJECT`)."
        )
    return found


def make_client(region: str):
    """A client of the jobs of a region, with the default credentials."""
    from google.cloud import aiplatform_v1

    return aiplatform_v1.JobServiceClient(
        client_options={"api_endpoint": f"{region}-aiplatform.googleapis.com"}
    )


def submit(client, kind: str, job, project: str, region: str) -> str:
    """Creates a job unless one of its name still runs.

    Args:
        client: an `aiplatform_v1.JobServiceClient`.
        kind: CustomJob or HyperparameterTuningJob.
        job: a message of that type.

    Returns:
        The resource name of the job.

    Raises:
        ValueError: if a job of this name runs.
    """
    singular = _NAMES[kind][0]
    parent = f"projects/{project}/locations/{region}"
    # Vertex AI itself would take any number of jobs of one name, and two would
    # write to one directory.
    for other in getattr(client, f"list_{singular}s")(
        request={
            "parent": parent,
            "filter": f'display_name="{job.display_name}"',
        }
    ):
        if other.state.name not in _ENDED:
            raise ValueError(
                f"--name={job.display_name} is the name of a job that is "
                f"{_describe(other.state)} ({link(other.name)}): give another "
                f"name, or end it with `{cancel_command(other.name)}`."
            )
    created = getattr(client, f"create_{singular}")(
        request={"parent": parent, singular: job}
    )
    return created.name


def watch(client, kind: str, name: str, poll_s: float) -> bool:
    """Prints what becomes of a job until it has ended.

    Returns:
        Whether it succeeded.
    """
    said = ""
    while True:
        job = getattr(client, f"get_{_NAMES[kind][0]}")(name=name)
        now = _describe(job.state)
        trials = getattr(job, "trials", None)
        if trials:
            done = sum(t.state.name == "SUCCEEDED" for t in trials)
            now += f", {done} of {job.max_trial_count} trials done"
        if now != said:
            print(f"{time.strftime('%H:%M:%S')}  {now}", flush=True)
            said = now
        if job.state.name in _ENDED:
            if job.error.message:
                print(f"Vertex AI says: {job.error.message}")
            return job.state.name == "JOB_STATE_SUCCEEDED"
        time.sleep(poll_s)


def _describe(state) -> str:
    return state.name.removeprefix("JOB_STATE_").replace("_", " ").lower()


def _parts(name: str) -> tuple[str, str, str, str]:
    """Project, region, `gcloud` collection and number of a resource name."""
    _, project, _, region, collection, number = name.split("/")
    kind = (
        "CustomJob"
        if collection == "customJobs"
        else ("HyperparameterTuningJob")
    )
    return project, region, kind, number


def link(name: str) -> str:
    """The job's page in the console."""
    project, region, kind, number = _parts(name)
    page = _NAMES[kind][2]
    base = "https://console.cloud.google.com/vertex-ai/locations"
    if kind == "CustomJob":
        return f"{base}/{region}/{page}/{number}?project={project}"
    return f"{base}/{region}/training/{page}/{number}?project={project}"


def cancel_command(name: str) -> str:
    project, region, kind, number = _parts(name)
    return (
        f"gcloud ai {_NAMES[kind][1]} cancel {number} --region={region} "
        f"--project={project}"
    )


def logs_command(name: str) -> str:
    project, region, kind, number = _parts(name)
    return (
        f"gcloud ai {_NAMES[kind][1]} stream-logs {number} --region={region} "
        f"--project={project}"
    )


def create_command(
    kind: str, job: dict, region: str, project: str, config_file: str
) -> str:
    """The `gcloud` command that creates what a dry run prints."""
    words = [
        f"gcloud ai {_NAMES[kind][1]} create",
        f"--region={region}",
        f"--display-name={job['displayName']}",
        f"--config={config_file}",
    ]
    if project:
        words.append(f"--project={project}")
    if "labels" in job:
        pairs = ",".join(f"{k}={v}" for k, v in job["labels"].items())
        words.append(f"--labels={pairs}")
    if "encryptionSpec" in job:
        words.append(f"--kms-key={job['encryptionSpec']['kmsKeyName']}")
    if kind == "HyperparameterTuningJob":
        words.append(f"--max-trial-count={job['maxTrialCount']}")
        words.append(f"--parallel-trial-count={job['parallelTrialCount']}")
    return " ".join(words)
