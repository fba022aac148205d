"""The manifests: by Kubernetes' schemas, and what no schema says."""

import copy
import functools
import os
import re
import shutil
import subprocess

import pytest

from deploy.kubernetes import join
from tests import processes
from tests.samples import ROOT
from trainer import startup
from trainer.training import cluster

yaml = pytest.importorskip("yaml")

FOLDER = ROOT / "deploy" / "kubernetes"


def load(path):
    """The documents of a file."""
    return [d for d in yaml.safe_load_all(path.read_text()) if d]


def read_base(directory):
    """Resources of a kustomization, as its files have them."""
    (kustomization,) = load(directory / "kustomization.yaml")
    for name in kustomization.get("resources", ()):
        path = directory / name
        yield from read_base(path) if path.is_dir() else load(path)
    for generator in kustomization.get("configMapGenerator", ()):
        data = {f: (directory / f).read_text() for f in generator["files"]}
        header = {"apiVersion": "v1", "kind": "ConfigMap"}
        yield header | {"metadata": {"name": generator["name"]}, "data": data}


@functools.cache
def build(name):
    """What kubectl would send; without kubectl the files themselves."""
    if not shutil.which("kubectl"):
        if name == "example":
            pytest.skip("kubectl is not installed")
        return list(read_base(FOLDER / name))
    done = subprocess.run(
        ["kubectl", "kustomize", FOLDER / name],
        # This asks no cluster, and here it could not.
        env=os.environ | {"KUBECONFIG": os.devnull},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [d for d in yaml.safe_load_all(done.stdout) if d]


def by_kind(resources, *kinds):
    return [r for r in resources if r["kind"] in kinds]


def pods(resources):
    """Labels, specification and only container of each kind of pod."""
    for resource in by_kind(resources, "Job", "Deployment"):
        template = resource["spec"]["template"]
        (container,) = template["spec"]["containers"]
        yield template["metadata"]["labels"], template["spec"], container


def variables(container):
    return {v["name"]: v.get("value") for v in container["env"]}


def ports(container):
    return {p["name"]: p["containerPort"] for p in container["ports"]}


def selects(resource, labels):
    """Whether a resource is about the pods with these labels."""
    spec = resource["spec"]
    selector = spec.get("selector") or spec["podSelector"]
    return selector.get("matchLabels", selector).items() <= labels.items()


@pytest.fixture(params=["train", "serving", "example"], scope="module")
def resources(request):
    return build(request.param)


@pytest.fixture(scope="module")
def kubernetes_validate():
    """The library, which would read its megabytes for each resource."""
    module = pytest.importorskip("kubernetes_validate")
    with pytest.MonkeyPatch.context() as patch:
        read = functools.cache(module.utils.schema_contents)
        patch.setattr(module.utils, "schema_contents", read)
        yield module


def test_kubernetes_schemas_accept_all(resources, kubernetes_validate):
    for resource in resources:
        for version in ("1.31", kubernetes_validate.latest_version()):
            kubernetes_validate.validate(resource, version, strict=True)


def test_schemas_are_strict(kubernetes_validate):
    (job,) = copy.deepcopy(by_kind(build("train"), "Job"))
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
    kinds = "Service", "Deployment", "PodDisruptionBudget", "NetworkPolicy"
    for resource in by_kind(resources, *kinds):
        assert any(
            selects(resource, labels) for labels, _, _ in pods(resources)
        )
    for scaler in by_kind(resources, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        (deployment,) = by_kind(resources, target["kind"])
        assert deployment["metadata"]["name"] == target["name"]
        assert deployment["apiVersion"] == target["apiVersion"]
        assert "replicas" not in deployment["spec"]
        # A share of the request needs a request.
        ((_, _, container),) = pods([deployment])
        assert container["resources"]["requests"]["cpu"]


def test_server_has_as_many_threads_as_cores(resources):
    for deployment in by_kind(resources, "Deployment"):
        ((_, _, container),) = pods([deployment])
        cores = container["resources"]["requests"]["cpu"]
        for kind in ("intra", "inter"):
            flag = f"--tensorflow_{kind}_op_parallelism={cores}"
            assert flag in container["args"]


def test_ports_have_the_same_names_and_numbers_everywhere(resources):
    for labels, _, container in pods(resources):
        known = ports(container)
        for service in by_kind(resources, "Service"):
            if selects(service, labels):
                assert known == {
                    p["targetPort"]: p["port"] for p in service["spec"]["ports"]
                }
        for key, value in container.items():
            if key.endswith("Probe"):
                assert value["httpGet"]["port"] in known
        if "PORT" in variables(container):
            assert set(known.values()) == {int(variables(container)["PORT"])}
        for policy in by_kind(resources, "NetworkPolicy"):
            if selects(policy, labels):
                for rule in policy["spec"]["ingress"]:
                    for port in rule["ports"]:
                        assert port["port"] in {*known, *known.values()}


def test_volumes_service_accounts_and_config_maps_exist(resources):
    accounts, config_maps = (
        {r["metadata"]["name"]: r for r in by_kind(resources, kind)}
        for kind in ("ServiceAccount", "ConfigMap")
    )
    for _, spec, container in pods(resources):
        account = accounts[spec["serviceAccountName"]]["metadata"]
        assert re.fullmatch(
            r"[a-z-]+@[A-Za-z-]+\.iam\.gserviceaccount\.com",
            account["annotations"]["iam.gke.io/gcp-service-account"],
        )
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in spec["volumes"]}
        for volume in spec["volumes"]:
            if "configMap" in volume:
                data = config_maps[volume["configMap"]["name"]]["data"]
                for argument in container["args"]:
                    _, _, value = argument.partition("=/config/")
                    assert not value or value in data


def test_pods_have_no_rights_and_a_limit(resources):
    for _, spec, container in pods(resources):
        context = spec["securityContext"]
        assert context["runAsNonRoot"]
        assert context["runAsUser"] == 10001
        assert context["seccompProfile"]["type"] == "RuntimeDefault"
        assert spec["automountServiceAccountToken"] is False
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"]["memory"]
        assert container["resources"]["limits"]["memory"]
        assert re.search(r":(cpu|gpu|\d+\.\d+\.\d+)$", container["image"])


def test_serving_deployment_is_scraped_and_probed_at_the_model():
    resources = build("serving")
    ((_, _, container),) = pods(resources)
    (deployment,) = by_kind(resources, "Deployment")
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    (config_map,) = by_kind(resources, "ConfigMap")
    path = annotations["prometheus.io/path"]
    assert f'path: "{path}"' in config_map["data"]["monitoring.config"]
    options = dict(a.removeprefix("--").split("=") for a in container["args"])
    assert ports(container) == {
        "grpc": int(options["port"]),
        "rest": int(options["rest_api_port"]),
    }
    assert annotations["prometheus.io/port"] == options["rest_api_port"]
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] == (
            f"/v1/models/{options['model_name']}/metadata"
        )
    assert container["livenessProbe"]["httpGet"]["path"] == path
    (compose,) = load(ROOT / "deploy/serving/docker-compose.yml")
    image = compose["services"]["serving"]["image"]
    assert image == f"${{SERVING_IMAGE:-{container['image']}}}"
    assert options["model_base_path"] == "$(MODEL_BASE_PATH)"
    assert variables(container)["MODEL_BASE_PATH"].startswith("gs://")


def job_environment(job, index):
    """What Kubernetes gives to a pod of an Indexed Job."""
    ((_, _, container),) = pods([job])
    environment = {"JOB_COMPLETION_INDEX": str(index)}
    for variable in container["env"]:
        if "value" not in variable:
            assert variable["valueFrom"]["fieldRef"]["fieldPath"] == (
                "metadata.labels['batch.kubernetes.io/job-name']"
            )
        environment[variable["name"]] = variable.get(
            "value", job["metadata"]["name"]
        )
    return environment


def job_command(job):
    """Command and arguments of its container, variables put in."""
    ((_, _, container),) = pods([job])
    environment = job_environment(job, 0)
    return [
        re.sub(r"\$\((\w+)\)", lambda match: environment[match[1]], argument)
        for argument in container["command"] + container["args"]
    ]


@pytest.mark.parametrize("name", ["train", "example"])
def test_pods_of_a_job_get_a_cluster_of_their_dns_names(name, monkeypatch):
    resources = build(name)
    (job,) = by_kind(resources, "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    count = spec["completions"]
    assert spec["parallelism"] == count
    subdomain = spec["template"]["spec"]["subdomain"]
    services = by_kind(resources, "Service")
    (service,) = [s for s in services if s["metadata"]["name"] == subdomain]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"]
    (port,) = service["spec"]["ports"]
    # A pod's host name is the Job's name and the index, its domain the
    # service's: https://kubernetes.io/docs/tasks/job/
    # job-with-pod-to-pod-communication.
    name = job["metadata"]["name"]
    hosts = [f"{name}-{i}.{subdomain}:{port['port']}" for i in range(count)]
    for index in range(count):
        found = join.training_variables(job_environment(job, index))
        monkeypatch.setenv("TF_CONFIG", found["TF_CONFIG"])
        assert cluster.read_cluster() == cluster.Cluster(
            {"worker": hosts}, "worker", index
        )


def test_flags_of_the_job_are_those_of_the_command():
    (job,) = by_kind(build("train"), "Job")
    python, *command = job_command(job)
    assert python == "python"
    assert command[:3] == ["-m", "deploy.kubernetes.join", "trainer.task"]
    _, *start = command[:3]
    done = processes.run(
        *start, "--helpfull", env=os.environ | job_environment(job, 0)
    )
    for flag in command[3:]:
        name = flag[2:].split("=")[0]
        assert re.search(rf"^  (--|--\[no\]){name}:", done.stdout, re.M)


def test_trainer_job_is_not_charged_for_preemption():
    (job,) = by_kind(build("train"), "Job")
    disrupted, preempted = job["spec"]["podFailurePolicy"]["rules"]
    assert disrupted["action"] == preempted["action"] == "Ignore"
    (condition,) = disrupted["onPodConditions"]
    assert condition == {"type": "DisruptionTarget", "status": "True"}
    assert preempted["onExitCodes"]["values"] == [startup.PREEMPTED]
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "the first argument must be trainer.task"),
        (("os",), "Received: 'os'"),
        (("trainer.task",), "the pod must be one of an Indexed Job"),
    ],
)
def test_join_outside_of_a_job_ends_with_a_sentence(arguments, sentence):
    with pytest.raises(SystemExit, match=rf"\A.*{sentence}.*\Z"):
        join.main(["join", *arguments])


def test_manifests_have_no_keys_and_no_secrets():
    for path in FOLDER.rglob("*.yaml"):
        assert "Secret" not in {d["kind"] for d in load(path)}
        assert "GOOGLE_APPLICATION_CREDENTIALS" not in path.read_text()
