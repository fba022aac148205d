"""The manifests: by Kubernetes' schemas, and what no schema says."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from deploy.kubernetes import join
from tests.conftest import ROOT
from trainer import startup
from trainer.training import cluster

yaml = pytest.importorskip("yaml")

FOLDER = ROOT / "deploy" / "kubernetes"
BASES = ("train", "serving")


def load(path):
    """The documents of a file."""
    return [d for d in yaml.safe_load_all(path.read_text()) if d]


def read_base(directory):
    """Resources of a kustomization, as its files have them."""
    (kustomization,) = load(directory / "kustomization.yaml")
    found = []
    for name in kustomization.get("resources", ()):
        path = (directory / name).resolve()
        found += read_base(path) if path.is_dir() else load(path)
    for generator in kustomization.get("configMapGenerator", ()):
        data = {f: (directory / f).read_text() for f in generator["files"]}
        found.append(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": generator["name"]},
                "data": data,
            }
        )
    return found


def build(name):
    """What kubectl would send; without kubectl the files themselves."""
    if not shutil.which("kubectl"):
        if name == "example":
            pytest.skip("kubectl is not installed")
        return read_base(FOLDER / name)
    done = subprocess.run(
        ["kubectl", "kustomize", FOLDER / name],
        # This asks no cluster, and here it could not.
        env=os.environ | {"KUBECONFIG": os.devnull},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [d for d in yaml.safe_load_all(done.stdout) if d]


def by_kind(resources, kind):
    return [r for r in resources if r["kind"] == kind]


def pod_templates(resources):
    return [
        r["spec"]["template"]
        for r in resources
        if r["kind"] in ("Job", "Deployment")
    ]


def variables(container):
    return {v["name"]: v.get("value") for v in container["env"]}


def matches(selector, labels):
    return selector.items() <= labels.items()


@pytest.fixture(params=[*BASES, "example"], scope="module")
def resources(request):
    return build(request.param)


@pytest.mark.parametrize("name", [*BASES, "example"])
def test_kubernetes_schemas_accept_all(name):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for resource in build(name):
        for version in ("1.31", kubernetes_validate.latest_version()):
            kubernetes_validate.validate(resource, version, strict=True)


def test_schemas_are_strict():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    (job,) = by_kind(build("train"), "Job")
    job["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.31", strict=True)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/kustomization.yaml")))
def test_kustomizations_name_files_that_exist_and_all_of_them(path):
    (kustomization,) = load(path)
    named = {
        (path.parent / name).resolve()
        for key in ("resources", "components")
        for name in kustomization.get(key, ())
    }
    assert all(p.exists() for p in named)
    beside = set(path.parent.glob("*.yaml")) - {path}
    assert beside == {p for p in named if p.is_file()}


def test_selectors_match_the_pods(resources):
    labels = [t["metadata"]["labels"] for t in pod_templates(resources)]
    for service in by_kind(resources, "Service"):
        assert any(matches(service["spec"]["selector"], x) for x in labels)
    for kind, path in (
        ("Deployment", ("selector",)),
        ("PodDisruptionBudget", ("selector",)),
        ("NetworkPolicy", ("podSelector",)),
    ):
        for resource in by_kind(resources, kind):
            selector = resource["spec"][path[0]]["matchLabels"]
            assert any(matches(selector, x) for x in labels), resource
    for scaler in by_kind(resources, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        (deployment,) = by_kind(resources, target["kind"])
        assert deployment["metadata"]["name"] == target["name"]
        assert deployment["apiVersion"] == target["apiVersion"]
        assert "replicas" not in deployment["spec"]
        # A share of the request needs a request.
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert container["resources"]["requests"]["cpu"]


def test_ports_have_the_same_names_and_numbers_everywhere(resources):
    for template in pod_templates(resources):
        labels = template["metadata"]["labels"]
        (container,) = template["spec"]["containers"]
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        for service in by_kind(resources, "Service"):
            if matches(service["spec"]["selector"], labels):
                assert {
                    p["targetPort"]: p["port"] for p in service["spec"]["ports"]
                } == ports
        for key, value in container.items():
            if key.endswith("Probe"):
                assert value["httpGet"]["port"] in ports
        if "PORT" in variables(container):
            assert set(ports.values()) == {int(variables(container)["PORT"])}
        for policy in by_kind(resources, "NetworkPolicy"):
            selector = policy["spec"]["podSelector"]["matchLabels"]
            if not matches(selector, labels):
                continue
            allowed = {
                port["port"]
                for rule in policy["spec"]["ingress"]
                for port in rule["ports"]
            }
            assert allowed <= {*ports, *ports.values()}


def test_volumes_service_accounts_and_config_maps_exist(resources):
    accounts = by_kind(resources, "ServiceAccount")
    config_maps = {
        r["metadata"]["name"]: r["data"]
        for r in by_kind(resources, "ConfigMap")
    }
    for template in pod_templates(resources):
        spec = template["spec"]
        (account,) = [
            a
            for a in accounts
            if a["metadata"]["name"] == spec["serviceAccountName"]
        ]
        google = account["metadata"]["annotations"][
            "iam.gke.io/gcp-service-account"
        ]
        assert re.fullmatch(
            r"[a-z-]+@[A-Za-z-]+\.iam\.gserviceaccount\.com", google
        )
        volumes = {v["name"]: v for v in spec["volumes"]}
        (container,) = spec["containers"]
        mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
        assert mounts.keys() == volumes.keys()
        for volume in volumes.values():
            if "configMap" not in volume:
                continue
            data = config_maps[volume["configMap"]["name"]]
            for argument in container["args"]:
                _, _, value = argument.partition("=/config/")
                assert not value or value in data


def test_pods_have_no_rights_and_a_limit(resources):
    for template in pod_templates(resources):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == 10001
        assert (
            spec["securityContext"]["seccompProfile"]["type"]
            == "RuntimeDefault"
        )
        assert spec["automountServiceAccountToken"] is False
        (container,) = spec["containers"]
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"]["memory"]
        assert container["resources"]["limits"]["memory"]
        assert re.search(r":(cpu|gpu|\d+\.\d+\.\d+)$", container["image"])


def test_serving_deployment_is_scraped_and_probed_at_the_model():
    resources = build("serving")
    (template,) = pod_templates(resources)
    (container,) = template["spec"]["containers"]
    annotations = template["metadata"]["annotations"]
    (config_map,) = by_kind(resources, "ConfigMap")
    path = annotations["prometheus.io/path"]
    assert f'path: "{path}"' in config_map["data"]["monitoring.config"]
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert annotations["prometheus.io/port"] == str(ports["rest"])
    options = dict(a.removeprefix("--").split("=") for a in container["args"])
    assert options["port"] == str(ports["grpc"])
    assert options["rest_api_port"] == str(ports["rest"])
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] == (
            f"/v1/models/{options['model_name']}/metadata"
        )
    assert container["livenessProbe"]["httpGet"]["path"] == path
    compose = yaml.safe_load(
        (ROOT / "deploy/serving/docker-compose.yml").read_text()
    )
    assert container["image"] == compose["services"]["serving"]["image"]
    assert re.fullmatch(r"\$\(MODEL_BASE_PATH\)", options["model_base_path"])
    assert variables(container)["MODEL_BASE_PATH"].startswith("gs://")


def job_environment(job, index):
    """What Kubernetes gives to a pod of an Indexed Job."""
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    environment = {"JOB_COMPLETION_INDEX": str(index)}
    for variable in container["env"]:
        if "value" in variable:
            environment[variable["name"]] = variable["value"]
        else:
            assert variable["valueFrom"]["fieldRef"]["fieldPath"] == (
                "metadata.labels['batch.kubernetes.io/job-name']"
            )
            environment[variable["name"]] = job["metadata"]["name"]
    return environment


def job_command(job):
    """Command and arguments of its container, variables put in."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    environment = job_environment(job, 0)
    return [
        re.sub(r"\$\((\w+)\)", lambda match: environment[match[1]], argument)
        for argument in container["command"] + container["args"]
    ]


@pytest.mark.parametrize("name", ["train", "example"])
def test_pods_of_a_job_find_each_other_by_their_dns_names(name):
    resources = build(name)
    (job,) = by_kind(resources, "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    count = spec["completions"]
    assert spec["parallelism"] == count
    subdomain = spec["template"]["spec"]["subdomain"]
    (service,) = [
        s
        for s in by_kind(resources, "Service")
        if s["metadata"]["name"] == subdomain
    ]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"]
    assert job_environment(job, 0)["NUM_PODS"] == str(count)
    (port,) = service["spec"]["ports"]
    for index in range(count):
        # The pod's host name is the Job's name and the index, its domain the
        # service's: https://kubernetes.io/docs/tasks/job/
        # job-with-pod-to-pod-communication.
        assert join.host(job_environment(job, index), index) == (
            f"{job['metadata']['name']}-{index}.{subdomain}:{port['port']}"
        )


def test_every_pod_of_the_training_job_gets_a_valid_cluster(monkeypatch):
    (job,) = by_kind(build("train"), "Job")
    hosts = ["train-0.train:2222", "train-1.train:2222"]
    for index in range(2):
        found = join.training_variables(job_environment(job, index))
        monkeypatch.setenv("TF_CONFIG", found["TF_CONFIG"])
        assert cluster.read_cluster() == cluster.Cluster(
            {"worker": hosts}, "worker", index
        )


def test_flags_of_the_job_are_those_of_the_command():
    (job,) = by_kind(build("train"), "Job")
    python, dash_m, module, target, *flags = job_command(job)
    assert [python, dash_m, module] == [
        "python",
        "-m",
        "deploy.kubernetes.join",
    ]
    assert target == "trainer.task"
    done = subprocess.run(
        [sys.executable, "-m", target, "--helpfull"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    for flag in flags:
        assert re.search(
            rf"^  (--|--\[no\]){flag[2:].split('=')[0]}:", done.stdout, re.M
        )


def test_trainer_job_is_not_charged_for_preemption():
    (job,) = by_kind(build("train"), "Job")
    rules = job["spec"]["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["Ignore", "Ignore"]
    assert rules[0]["onPodConditions"] == [
        {"type": "DisruptionTarget", "status": "True"}
    ]
    assert rules[1]["onExitCodes"]["values"] == [startup.PREEMPTED]
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def run_join(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "deploy.kubernetes.join", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
    )


def test_join_outside_of_a_job_ends_with_a_sentence():
    for arguments, part in (
        ((), "the first argument must be trainer.task"),
        (("os",), "Received: 'os'"),
        (("trainer.task",), "the pod must be one of an Indexed Job"),
    ):
        done = run_join(*arguments)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert part in line


def test_manifests_have_no_keys_and_no_secrets():
    for path in FOLDER.rglob("*.yaml"):
        kinds = {d["kind"] for d in load(path)}
        assert "Secret" not in kinds
        assert "GOOGLE_APPLICATION_CREDENTIALS" not in path.read_text()
