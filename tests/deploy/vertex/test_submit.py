"""Jobs parse into the API's types; wrong ones are refused with a sentence."""

import subprocess
import sys
import types

import pytest
import yaml
from absl import flags
from absl.testing import flagsaver
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions
from google.cloud import aiplatform_v1

from deploy.vertex import (
    api_errors,
    job_checks,
    job_spec,
    jobs,
    machines,
    study,
    submit,
)
from tests.conftest import ROOT

TRAINER = [
    "--data_dir=gs://bucket/records",
    "--job_dir=gs://bucket/run",
    "--weights=none",
]
CONFIG = {
    "data_dir": "gs://bucket/records",
    "job_dir": "gs://bucket/run",
    "export_dir": "",
    "features_dir": "",
    "strategy": "auto",
    "global_batch_size": 32,
}


@pytest.fixture(scope="module", autouse=True)
def defined_flags():
    with flagsaver.flagsaver():
        before = set(flags.FLAGS)
        submit._define_flags()
        flags.FLAGS.mark_as_parsed()
        yield
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)


def options(**given):
    machine = given.pop("machine", machines.Machine("n1-standard-8"))
    if isinstance(machine, tuple):
        machine = machines.Machine(*machine)
    return job_spec.JobOptions(
        **{
            "name": "brain",
            "region": "us-central1",
            "image_uri": "us-central1-docker.pkg.dev/p/lightbox/train:1",
            "machine": machines.complete(machine),
            **given,
        }
    )


def parsed(some, arguments=TRAINER):
    spec = job_spec.make_job_spec(some, arguments, "gs://bucket/run")
    job_checks.check_options(some)
    job_checks.check_job_spec(spec)
    return job_checks.parse("CustomJob", job_spec.make_custom_job(some, spec))


def test_every_option_arrives_in_the_api_types():
    job = parsed(
        options(
            machine=("n1-standard-16", "NVIDIA_TESLA_T4", 2),
            num_workers=3,
            spot=True,
            timeout_s=3600,
            restart=False,
            service_account="trainer@p.iam.gserviceaccount.com",
            network="projects/123/global/networks/medical",
            reserved_ip_ranges=("range-a",),
            kms_key="projects/p/locations/us-central1/keyRings/r/cryptoKeys/k",
            tensorboard="projects/p/locations/us-central1/tensorboards/7",
            labels={"team": "radiology"},
        )
    )
    spec = job.job_spec
    chief, workers = spec.worker_pool_specs
    assert (chief.replica_count, workers.replica_count) == (1, 2)
    for pool in (chief, workers):
        assert pool.machine_spec.machine_type == "n1-standard-16"
        assert pool.machine_spec.accelerator_type.name == "NVIDIA_TESLA_T4"
        assert pool.machine_spec.accelerator_count == 2
        assert list(pool.container_spec.args) == TRAINER
        assert pool.disk_spec.boot_disk_size_gb == 100
    assert spec.scheduling.strategy.name == "SPOT"
    assert spec.scheduling.timeout.total_seconds() == 3600
    assert spec.scheduling.disable_retries
    assert not spec.scheduling.restart_job_on_worker_restart
    assert spec.base_output_directory.output_uri_prefix == "gs://bucket/run"
    assert spec.service_account == "trainer@p.iam.gserviceaccount.com"
    assert spec.network == "projects/123/global/networks/medical"
    assert list(spec.reserved_ip_ranges) == ["range-a"]
    assert spec.tensorboard.endswith("tensorboards/7")
    assert job.encryption_spec.kms_key_name.endswith("cryptoKeys/k")
    assert dict(job.labels) == {"team": "radiology"}


@pytest.mark.parametrize(
    ("machine", "accelerator", "num_devices"),
    [
        (("n1-standard-8",), "ACCELERATOR_TYPE_UNSPECIFIED", 1),
        (("n1-standard-8", "NVIDIA_TESLA_V100"), "NVIDIA_TESLA_V100", 1),
        (("g2-standard-48",), "NVIDIA_L4", 4),
        (("a2-highgpu-1g",), "NVIDIA_TESLA_A100", 1),
        (("a3-highgpu-8g",), "NVIDIA_H100_80GB", 8),
        (("cloud-tpu", "TPU_V3"), "TPU_V3", 8),
        (("ct5lp-hightpu-8t",), "ACCELERATOR_TYPE_UNSPECIFIED", 8),
    ],
)
def test_machine_with_its_accelerators_is_accepted(
    machine, accelerator, num_devices
):
    some = options(machine=machine)
    spec = parsed(some).job_spec.worker_pool_specs[0]
    assert spec.machine_spec.accelerator_type.name == accelerator
    assert machines.num_devices(some.machine) == num_devices
    is_tpu = machine[0] in ("cloud-tpu", "ct5lp-hightpu-8t")
    assert [e.name for e in spec.container_spec.env] == ["TPU_NAME"] * is_tpu


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"region": "us-mars1"}, r"--region.*us-central1.*us-mars1"),
        ({"name": ""}, "--name must be of 1 to 128"),
        ({"image_uri": "https://x/y"}, r"--image_uri.*registry"),
        ({"image_uri": ""}, "--image_uri"),
        ({"num_workers": 0}, "--num_workers.*num_workers=0"),
        ({"timeout_s": 5}, "--timeout_s"),
        ({"boot_disk_gb": 10}, "--boot_disk_gb"),
        ({"labels": {"Team": "a"}}, "--labels.*Team=a"),
        ({"service_account": "key.json"}, "--service_account.*key"),
        ({"network": "projects/p/global/networks/n"}, "project's number"),
        ({"reserved_ip_ranges": ("a",)}, "--network: give it too"),
        (
            {
                "network": "projects/1/global/networks/n",
                "psc_network_attachment": "a",
            },
            "exclude each other",
        ),
        (
            {
                "psc_network_attachment": "projects/p/regions/us-east1/"
                "networkAttachments/a"
            },
            "region of the job",
        ),
        (
            {"kms_key": "projects/p/locations/us/keyRings/r/cryptoKeys/k"},
            "--kms_key.*us-central1",
        ),
        (
            {"tensorboard": "projects/p/locations/us-central1/tensorboards/1"},
            "--service_account",
        ),
        ({"machine": ("n1-standard-3",)}, "does not exist"),
        ({"machine": ("x2-large",)}, "none that Vertex AI trains on"),
        ({"machine": ("e2-standard-4", "NVIDIA_TESLA_T4")}, "no accelerator"),
        ({"machine": ("n1-standard-8", "NVIDIA_L4")}, "built into g2-"),
        (
            {"machine": ("n1-standard-96", "NVIDIA_TESLA_T4", 1)},
            "takes 4 NVIDIA_TESLA_T4",
        ),
        (
            {"machine": ("g2-standard-8", "NVIDIA_L4", 2)},
            "carries 1 NVIDIA_L4",
        ),
        ({"machine": ("n1-standard-8", "", 2)}, "given together"),
        ({"machine": ("ct6e-standard-8t",)}, "TensorFlow does not run"),
        ({"machine": ("cloud-tpu",)}, "TPU_V2 or TPU_V3"),
        ({"machine": ("cloud-tpu", "TPU_V3", 32)}, "must be 8"),
        (
            {"machine": ("ct5lp-hightpu-4t", "", 0, "4x4")},
            "tpu_topology=2x2",
        ),
        ({"machine": ("ct5lp-hightpu-8t",), "num_workers": 2}, "1 on a TPU"),
        ({"machine": ("ct5lp-hightpu-8t",), "spot": True}, "--spot is not"),
    ],
)
def test_wrong_option_is_refused_with_its_flag(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        job_checks.check_options(options(**given))


@pytest.mark.parametrize(
    ("given", "config", "sentence"),
    [
        ({}, {"data_dir": "records"}, "--data_dir must be gs://"),
        ({}, {"job_dir": "/run"}, "--job_dir must be gs://"),
        ({}, {"strategy": "tpu"}, "--strategy must be auto or"),
        ({"num_workers": 2}, {"strategy": "mirrored"}, "multi_worker"),
        (
            {"machine": ("g2-standard-96",), "num_workers": 3},
            {},
            "global_batch_size=32, 24 replicas",
        ),
    ],
)
def test_trainer_settings_must_go_with_the_machines(given, config, sentence):
    with pytest.raises(ValueError, match=sentence):
        job_checks.check_config(CONFIG | config, options(**given))


def test_spec_lacking_what_the_types_do_not_require_is_refused():
    some = options(num_workers=2)
    for break_it, sentence in (
        (lambda s: s.pop("workerPoolSpecs"), "must have a pool"),
        (lambda s: s["workerPoolSpecs"][0].pop("containerSpec"), "container"),
        (
            lambda s: s["workerPoolSpecs"][0].update(replicaCount=2),
            "replicaCount must be 1",
        ),
        (lambda s: s.pop("baseOutputDirectory"), "baseOutputDirectory"),
    ):
        spec = job_spec.make_job_spec(some, TRAINER, "gs://bucket/run")
        break_it(spec)
        with pytest.raises(ValueError, match=sentence):
            job_checks.check_job_spec(spec)
    with pytest.raises(ValueError, match="no CustomJob"):
        job_checks.parse("CustomJob", {"displayname": "x"})


def test_regions_and_accelerators_are_those_of_the_client_library():
    from google.cloud.aiplatform.constants import base

    assert base.SUPPORTED_REGIONS - {"global"} == machines.REGIONS
    known = {a.name for a in aiplatform_v1.AcceleratorType}
    named = {a for a, _ in machines._BUILT_IN.values()}
    assert named | set(machines._ATTACHABLE) <= known


def test_study_searches_the_space_of_sweeps_but_for_given_flags(tmp_path):
    narrowed = tmp_path / "space.json"
    narrowed.write_text('{"dropout": [0.2, 0.4], "optimizer": ["adamw"]}')
    study_spec = study.make_study_spec(
        "log_loss", "random", str(narrowed), {"weight_decay"}, 32
    )
    some = options()
    job = job_checks.parse(
        "HyperparameterTuningJob",
        job_spec.make_tuning_job(
            some,
            job_spec.make_job_spec(some, TRAINER, "gs://bucket/run"),
            study_spec,
            9,
            3,
        ),
    )
    assert (job.max_trial_count, job.parallel_trial_count) == (9, 3)
    assert job.study_spec.algorithm.name == "RANDOM_SEARCH"
    (metric,) = job.study_spec.metrics
    assert (metric.metric_id, metric.goal.name) == ("log_loss", "MINIMIZE")
    found = {p.parameter_id: p for p in job.study_spec.parameters}
    assert "weight_decay" not in found and "num_hidden_layers" not in found
    dropout = found["dropout"].double_value_spec
    assert (dropout.min_value, dropout.max_value) == (0.2, 0.4)
    assert found["head_learning_rate"].scale_type.name == "UNIT_LOG_SCALE"
    # Batches of 16 cannot be shared by 32 replicas.
    batches = found["global_batch_size"].categorical_value_spec.values
    assert list(batches) == ["32", "64"]
    depths = found["fine_tune_blocks"].categorical_value_spec.values
    assert list(depths) == ["1", "2", "4"]


def test_objectives_are_those_that_sweeps_know():
    from tuning import objectives

    known = {*objectives.metric_names(2), *objectives.metric_names(3)}
    assert set(study.OBJECTIVES) == known
    assert {n for n in known if objectives.direction(n) == "min"} == set(
        study._MINIMIZED
    )


def dry_run(*arguments):
    return subprocess.run(
        [
            *(sys.executable, "-m", "deploy.vertex.submit", "--dry_run"),
            "--image_uri=us-central1-docker.pkg.dev/p/lightbox/train:1",
            *arguments,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_dry_run_prints_what_gcloud_takes():
    train = dry_run("--num_workers=2", "--", *TRAINER)
    assert train.returncode == 0, train.stderr
    assert "gcloud ai custom-jobs create --region=us-central1" in train.stdout
    spec = yaml.safe_load(train.stdout)
    message = job_checks.parse("CustomJobSpec", spec)
    assert [p.replica_count for p in message.worker_pool_specs] == [1, 1]

    tune = dry_run("--action=tune", "--", *TRAINER, "--nohorizontal_flip")
    assert tune.returncode == 0, tune.stderr
    assert "--max-trial-count=20 --parallel-trial-count=2" in tune.stdout
    job = yaml.safe_load(tune.stdout)
    message = job_checks.parse("HyperparameterTuningJob", job)
    (pool,) = message.trial_job_spec.worker_pool_specs
    # Each trial has a directory of its own, of which Vertex AI tells it.
    assert list(pool.container_spec.args) == [
        "--data_dir=gs://bucket/records",
        "--weights=none",
        "--nohorizontal_flip",
    ]
    output = message.trial_job_spec.base_output_directory.output_uri_prefix
    assert output == "gs://bucket/run"


def test_wrong_flag_of_the_trainer_is_refused_before_anything_is_sent():
    for arguments, sentence in (
        (["--data_dir=gs://b/r", "--jobdir=x"], "Unknown command line flag"),
        ([*TRAINER, "--image_size=7"], "--image_size must be between"),
        (TRAINER[:1], "--job_dir must be given"),
    ):
        process = dry_run("--", *arguments)
        assert process.returncode == 1
        assert sentence in process.stderr and not process.stdout
        assert len(process.stderr.splitlines()) == 1


class FakeClient:
    """Jobs as the service keeps them: each look at one takes it further."""

    def __init__(self, states=("RUNNING", "SUCCEEDED"), error=None):
        self.states, self.error = list(states), error
        self.jobs, self.sent = [], []

    def list_custom_jobs(self, request):
        assert request["filter"] == 'display_name="brain"'
        return self.jobs

    def create_custom_job(self, request):
        if self.error:
            raise self.error
        self.sent.append(request)
        return types.SimpleNamespace(
            name="projects/9/locations/us-central1/customJobs/55"
        )

    def get_custom_job(self, name):
        return aiplatform_v1.CustomJob(
            name=name,
            state=f"JOB_STATE_{self.states.pop(0)}",
            error={"message": "The replica workerpool0-0 exited with 1."}
            if not self.states
            else {},
        )


def test_job_is_sent_watched_and_linked(capsys):
    client = FakeClient(("QUEUED", "RUNNING", "RUNNING", "FAILED"))
    name = jobs.submit(
        client, "CustomJob", parsed(options()), "p", "us-central1"
    )
    assert not jobs.watch(client, "CustomJob", name, poll_s=0)
    assert client.sent[0]["parent"] == "projects/p/locations/us-central1"
    said = [line[10:] for line in capsys.readouterr().out.splitlines()]
    assert said[:3] == ["queued", "running", "failed"]
    assert jobs.cancel_command(name) == (
        "gcloud ai custom-jobs cancel 55 --region=us-central1 --project=9"
    )
    assert "/us-central1/training/55?project=9" in jobs.link(name)


def test_name_of_a_running_job_is_refused():
    client = FakeClient()
    client.jobs = [
        aiplatform_v1.CustomJob(
            name="projects/9/locations/us-central1/customJobs/4",
            state="JOB_STATE_RUNNING",
        )
    ]
    with pytest.raises(ValueError, match=r"--name=brain .*cancel 4"):
        jobs.submit(client, "CustomJob", parsed(options()), "p", "us-central1")
    assert not client.sent
    client.jobs[0].state = "JOB_STATE_FAILED"
    jobs.submit(client, "CustomJob", parsed(options()), "p", "us-central1")
    assert client.sent


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            auth_exceptions.DefaultCredentialsError("none"),
            "gcloud auth application-default login",
        ),
        (auth_exceptions.TransportError("reset"), "could not be reached"),
        (exceptions.Unauthorized("expired"), "login"),
        (
            exceptions.Forbidden(
                "Permission 'aiplatform.customJobs.create' denied"
            ),
            "roles/aiplatform.user",
        ),
        (
            exceptions.Forbidden("iam.serviceAccounts.actAs denied on x"),
            "roles/iam.serviceAccountUser on --service_account",
        ),
        (
            exceptions.Forbidden("Vertex AI API has not been used in p"),
            "gcloud services enable aiplatform.googleapis.com --project=p",
        ),
        (
            exceptions.ResourceExhausted(
                "The following quotas are exceeded: "
                "custom_model_training_nvidia_l4_gpus"
            ),
            "more of custom_model_training_nvidia_l4_gpus",
        ),
        (exceptions.AlreadyExists("brain exists"), "another --name"),
        (exceptions.NotFound("projects/p"), "--project=p"),
        (exceptions.InvalidArgument("bad machine"), "bad machine"),
        (exceptions.ServiceUnavailable("down"), "run the same command again"),
    ],
)
def test_error_of_the_api_says_what_to_change(error, sentence):
    client = FakeClient(error=error)
    with pytest.raises(api_errors.ERRORS) as raised:
        jobs.submit(client, "CustomJob", parsed(options()), "p", "us-central1")
    said = api_errors.explain(raised.value, "p", "us-central1", "--name")
    assert sentence in said and "\n" not in said
