"""Jobs are what the flags say, in the API's types, and are sent and awaited."""

import logging
import sys
import types
from unittest import mock

import pytest
from google.api_core import exceptions
from google.cloud import aiplatform_v1

from deploy.vertex import api, submit

IMAGE = "--image_uri=us-central1-docker.pkg.dev/p/lightbox/train:1"
TRAINER = (
    "--data_dir=gs://bucket/records",
    "--job_dir=gs://bucket/run",
    "--weights=none",
)


@pytest.fixture
def dry_run(run):
    def dry_run(*arguments, trainer=TRAINER):
        text = run(submit, "--dry_run", IMAGE, *arguments, "--", *trainer)
        kind = "CustomJob" if "jobSpec" in text else "HyperparameterTuningJob"
        return getattr(aiplatform_v1, kind).from_json(text)

    return dry_run


def test_every_option_arrives_in_the_api_types(dry_run):
    job = dry_run(
        "--name=brain",
        "--machine_type=n1-standard-16",
        "--accelerator_type=NVIDIA_TESLA_T4",
        "--accelerator_count=2",
        "--num_workers=4",
        "--spot",
        "--timeout_s=3600",
        "--norestart",
        "--boot_disk_gb=200",
        "--service_account=trainer@p.iam.gserviceaccount.com",
        "--network=projects/123/global/networks/medical",
        "--reserved_ip_ranges=range-a",
        "--psc_network_attachment=attachment",
        "--kms_key=projects/p/locations/us-central1/keyRings/r/cryptoKeys/k",
        "--tensorboard=projects/p/locations/us-central1/tensorboards/7",
        "--labels=team=radiology,cheap",
    )
    spec = job.job_spec
    chief, workers = spec.worker_pool_specs
    assert (chief.replica_count, workers.replica_count) == (1, 3)
    for pool in (chief, workers):
        assert pool.machine_spec.machine_type == "n1-standard-16"
        assert pool.machine_spec.accelerator_type.name == "NVIDIA_TESLA_T4"
        assert pool.machine_spec.accelerator_count == 2
        assert pool.container_spec.image_uri == IMAGE.split("=")[1]
        assert list(pool.container_spec.args) == list(TRAINER)
        assert not pool.container_spec.env
        assert pool.disk_spec.boot_disk_size_gb == 200
    assert spec.scheduling.strategy.name == "SPOT"
    assert spec.scheduling.timeout.total_seconds() == 3600
    assert spec.scheduling.disable_retries
    assert not spec.scheduling.restart_job_on_worker_restart
    assert spec.base_output_directory.output_uri_prefix == "gs://bucket/run"
    assert spec.service_account == "trainer@p.iam.gserviceaccount.com"
    assert spec.network == "projects/123/global/networks/medical"
    assert list(spec.reserved_ip_ranges) == ["range-a"]
    assert spec.psc_interface_config.network_attachment == "attachment"
    assert spec.tensorboard.endswith("tensorboards/7")
    assert job.display_name == "brain"
    assert job.encryption_spec.kms_key_name.endswith("cryptoKeys/k")
    assert dict(job.labels) == {"team": "radiology", "cheap": ""}


@pytest.mark.parametrize(
    "machine",
    [
        "ct5lp-hightpu-8t --tpu_topology=2x4",
        "cloud-tpu --accelerator_type=TPU_V3 --accelerator_count=8",
    ],
)
def test_trainer_on_a_tpu_is_told_of_it(dry_run, machine):
    spec = dry_run(*f"--machine_type={machine}".split()).job_spec
    (pool,) = spec.worker_pool_specs
    (variable,) = pool.container_spec.env
    assert (variable.name, variable.value) == ("TPU_NAME", "local")
    assert spec.scheduling.restart_job_on_worker_restart


def test_study_searches_the_space_of_sweeps_but_for_given_flags(
    dry_run, tmp_path
):
    given = ("--weight_decay=0.1", "--nohorizontal_flip")
    narrowed = tmp_path / "space.json"
    narrowed.write_text('{"dropout": [0.2, 0.4], "optimizer": ["adamw"]}')
    job = dry_run(
        "--action=tune",
        "--max_trials=9",
        "--parallel_trials=3",
        "--objective=log_loss",
        "--oracle=random",
        f"--search_space={narrowed}",
        "--num_workers=32",
        trainer=(*TRAINER, *given),
    )
    assert (job.max_trial_count, job.parallel_trial_count) == (9, 3)
    assert job.study_spec.algorithm.name == "RANDOM_SEARCH"
    (metric,) = job.study_spec.metrics
    assert (metric.metric_id, metric.goal.name) == ("log_loss", "MINIMIZE")
    parameters = {p.parameter_id: p for p in job.study_spec.parameters}
    assert "weight_decay" not in parameters
    assert "num_hidden_layers" not in parameters
    dropout = parameters["dropout"].double_value_spec
    assert (dropout.min_value, dropout.max_value) == (0.2, 0.4)
    rate = parameters["head_learning_rate"]
    assert rate.scale_type.name == "UNIT_LOG_SCALE"
    # Batches of 16 cannot be shared by 32 replicas.
    batches = parameters["global_batch_size"].categorical_value_spec.values
    assert list(batches) == ["32", "64"]
    depths = parameters["fine_tune_blocks"].categorical_value_spec.values
    assert list(depths) == ["2", "4", "9"]
    # Each trial has a directory of its own, of which Vertex AI tells it.
    spec = job.trial_job_spec
    arguments = spec.worker_pool_specs[0].container_spec.args
    assert list(arguments) == [*TRAINER, *given, "--job_dir="]
    assert spec.base_output_directory.output_uri_prefix == "gs://bucket/run"


@pytest.mark.parametrize(
    ("options", "trainer", "sentence"),
    [
        ([], TRAINER[:1], "--job_dir must be given"),
        ([], [*TRAINER, "--jobdir=x"], "Unknown command line flag"),
        ([], [*TRAINER, "--image_size=7"], "--image_size must be between"),
        ([], [*TRAINER, "--data_dir=records"], "--data_dir must be gs://"),
        ([], [*TRAINER, "--job_dir=/run"], "--job_dir must be gs://"),
        (["--num_workers=24"], TRAINER, "global_batch_size=32, 24 replicas"),
        (["--tpu_topology=4x6"], TRAINER, "global_batch_size=32, 24 replicas"),
        (["--accelerator_type=GPU"], TRAINER, "Invalid enum value GPU"),
        (["--search_space=/no/file", "--action=tune"], TRAINER, "/no/file"),
    ],
)
def test_wrong_flag_is_answered_by_a_sentence(run, options, trainer, sentence):
    with pytest.raises(SystemExit) as ended:
        run(submit, IMAGE, *options, "--", *trainer)
    assert sentence in ended.value.code and "\n" not in ended.value.code


@pytest.fixture
def jobs(signed_in, monkeypatch, caplog):
    """Jobs as the service keeps them: each look at one takes it further."""
    from google.cloud.aiplatform import jobs as library

    client = aiplatform_v1.JobServiceClient
    jobs = types.SimpleNamespace(states=[], sent=[], seconds=0, job=None)

    def create(_, parent, timeout=None, **request):
        ((kind, jobs.job),) = request.items()
        jobs.sent.append((parent, kind))
        path = getattr(client, f"{kind}_path")
        jobs.job.name = path("9", "us-central1", "55")
        return jobs.job

    def get(_, **__):
        jobs.job.state = f"JOB_STATE_{jobs.states.pop(0)}"
        if jobs.job.state.name == "JOB_STATE_FAILED":
            jobs.job.error = {"message": "The replica exited with 1."}
        return jobs.job

    def sleep(seconds):
        jobs.seconds += seconds

    jobs.clock = types.SimpleNamespace(time=lambda: jobs.seconds, sleep=sleep)
    monkeypatch.setattr(library, "time", jobs.clock)
    logger = logging.getLogger(library.__name__)
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(logger, "propagate", False)
    for kind in ("custom_job", "hyperparameter_tuning_job"):
        monkeypatch.setattr(client, f"create_{kind}", create)
        monkeypatch.setattr(client, f"get_{kind}", get)
    return jobs


@pytest.mark.parametrize(
    ("action", "kind", "collection"),
    [
        ("train", "custom_job", "custom-jobs"),
        ("tune", "hyperparameter_tuning_job", "hp-tuning-jobs"),
    ],
)
def test_job_is_sent_linked_and_awaited(
    run, jobs, caplog, action, kind, collection
):
    jobs.states = ["QUEUED", *["PENDING"] * 3, *["RUNNING"] * 3, "SUCCEEDED"]
    text = run(submit, IMAGE, f"--action={action}", "--", *TRAINER)
    assert jobs.sent == [("projects/project/locations/us-central1", kind)]
    assert "/us-central1/training/55?project=9\n" in text
    assert f"gcloud ai {collection} cancel {jobs.job.name}\n" in text
    # The library says a state every five seconds; here each is said once.
    states = [line for line in caplog.text.split() if "JOB_STATE" in line]
    ends = ("PENDING", "RUNNING", "SUCCEEDED")
    assert states == [f"JOB_STATE_{name}" for name in ends]


def test_job_may_fail_or_go_on_without_the_command(run, jobs):
    jobs.states = ["QUEUED"]
    assert "Sent" in run(submit, IMAGE, "--nowait", "--", *TRAINER)
    assert not jobs.seconds
    jobs.states = ["RUNNING", "FAILED"]
    with pytest.raises(SystemExit, match="The replica exited with 1"):
        run(submit, IMAGE, "--", *TRAINER)
    jobs.states = ["QUEUED", "RUNNING"]
    jobs.clock.sleep = mock.Mock(side_effect=KeyboardInterrupt)
    assert "The job goes on" in run(submit, IMAGE, "--", *TRAINER)
    with pytest.raises(SystemExit, match="Unsupported region"):
        run(submit, IMAGE, "--region=us-mars1", "--", *TRAINER)


def test_without_credentials_or_library_the_command_says_so(run, monkeypatch):
    with pytest.raises(SystemExit, match="gcloud auth application-default"):
        run(submit, IMAGE, "--", *TRAINER)
    monkeypatch.delattr("google.cloud.aiplatform_v1")
    monkeypatch.setitem(sys.modules, "google.cloud.aiplatform_v1", None)
    with pytest.raises(SystemExit, match=r"pip install -e '\.\[cloud\]'"):
        run(submit, IMAGE, "--", *TRAINER)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (exceptions.Unauthorized("expired"), "no usable credentials (expired)"),
        (exceptions.Forbidden("no\nactAs"), "permission denied (no actAs)"),
        (exceptions.InvalidArgument("bad machine"), "bad machine"),
        (exceptions.ServiceUnavailable("down"), "ServiceUnavailable: down"),
    ],
)
def test_error_of_the_api_is_one_sentence(error, sentence):
    with pytest.raises(SystemExit) as ended, api.one_sentence("submit"):
        raise error
    assert sentence in ended.value.code and "\n" not in ended.value.code
