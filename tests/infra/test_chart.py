"""The Helm chart: what it renders is valid for the newest three versions of Kubernetes, keeps to our policies, and a
wrong value is told. It never ran on a cluster."""

from __future__ import annotations

import copy
import functools
import importlib.util
import ipaddress
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import helm_python
import kubernetes_validate
import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.utilities.templating import apply_values

from deployments.work_pools import work_pool_spec
from trimtab.config.settings import Settings

HELM = Path(__file__).parents[2] / "infra" / "helm"
CHART = HELM / "trimtab"
SETS = ("laptop", "production", "external")
NEWEST = list(dict.fromkeys(kubernetes_validate.utils.major_minor(v) for v in kubernetes_validate.utils.all_versions()))
VERSIONS = NEWEST[-3:]
Resource = dict[str, Any]


def values(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((HELM / "values" / f"{name}.yaml").read_text()))


def render(given: dict[str, Any]) -> list[Resource]:
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(given, name="models", namespace="ml")
    files = [text for path, text in texts.items() if path.endswith(".yaml")]
    return [resource for text in files for resource in yaml.safe_load_all(text) if resource]


@pytest.fixture(scope="module", params=SETS)
def rendered(request: pytest.FixtureRequest) -> list[Resource]:
    return render(values(request.param))


def of(rendered: list[Resource], kind: str, name: str | None = None) -> list[Resource]:
    return [r for r in rendered if r["kind"] == kind and name in (None, r["metadata"]["name"])]


def job_template(rendered: list[Resource]) -> dict[str, Any]:
    (config,) = of(rendered, "ConfigMap")
    return dict(json.loads(config["data"]["base-job-template.json"]))


def flow_job(rendered: list[Resource]) -> Resource:
    """The job of a flow run, as Prefect's worker makes it from our template and what a deployment gives."""
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    environ = {v["name"]: v["value"] for v in containers(of(rendered, "Job")[0])[0]["env"]}
    given = {name: environ.get(f"TRIMTAB_{name.upper()}") for name in Settings.model_fields if name != "pool_template"}
    settings = Settings.model_validate({name: value for name, value in given.items() if value is not None})
    pool = work_pool_spec(settings, environ)
    assert pool.template, "the pool's own template is what the chart's takes the place of"
    template = job_template(rendered)
    properties = template["variables"]["properties"]
    defaults = {name: told["default"] for name, told in properties.items() if "default" in told}
    filled = apply_values(template["job_configuration"], {**defaults, **pool.job_variables})
    made = KubernetesWorkerJobConfiguration(**filled)
    made.prepare_for_flow_run(FlowRun(flow_id=uuid.uuid4(), name="reconcile"))
    job = copy.deepcopy(made.job_manifest)
    for name in ("parallelism", "completions"):  # Prefect wants them where Kubernetes does not
        job["spec"]["template"]["spec"].pop(name)
    return dict(job)


def pods(rendered: list[Resource]) -> Iterator[tuple[str, dict[str, Any]]]:
    for resource in [*of(rendered, "Deployment"), *of(rendered, "Job"), flow_job(rendered)]:
        yield resource["metadata"].get("name", "flow"), resource["spec"]["template"]["spec"]


def containers(resource: Resource) -> list[dict[str, Any]]:
    spec = resource["spec"]["template"]["spec"]
    return [*spec["containers"], *spec.get("initContainers", [])]


@pytest.mark.parametrize("name", SETS)
def test_the_chart_has_nothing_that_lint_minds(name: str) -> None:
    found = helm_python.lint(CHART, values(name), strict=True)
    assert not found["errors"]
    assert [m["error"] for m in found["messages"] if m["error"] != "icon is recommended"] == []


@pytest.fixture(scope="module")
def quick_schemas() -> Iterator[None]:
    """Schemas are read once; they are megabytes."""
    with pytest.MonkeyPatch.context() as patched:
        read = functools.cache(kubernetes_validate.utils.schema_contents)
        patched.setattr(kubernetes_validate.utils, "schema_contents", read)
        yield


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.usefixtures("quick_schemas")
def test_everything_is_strictly_valid_in_the_newest_three_versions_of_kubernetes(
    rendered: list[Resource], version: str
) -> None:
    assert [trouble for each in [*rendered, flow_job(rendered)] if (trouble := invalid(each, version))] == []


def invalid(resource: Resource, version: str) -> str:
    """What the schemas of *version* mind; nothing if it is valid."""
    try:
        kubernetes_validate.validate(resource, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{resource['kind']} {resource['metadata'].get('name')}: {error}"
    return ""


def test_nobody_is_root_or_can_write_to_the_image(rendered: list[Resource]) -> None:
    for name, spec in pods(rendered):
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True, name
        assert pod["runAsUser"] >= 10000, name
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["readOnlyRootFilesystem"] is True, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
        assert not any("hostPath" in volume for volume in spec["volumes"]), name
        assert not any(spec.get(host) for host in ("hostNetwork", "hostPID", "hostIPC")), name


def test_everything_has_requests_and_limits(rendered: list[Resource]) -> None:
    for name, spec in pods(rendered):
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            for kind in ("requests", "limits"):
                assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"][kind].keys(), name
        for volume in spec["volumes"]:
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"], name


def test_every_image_says_which_it_is(rendered: list[Resource]) -> None:
    for name, spec in pods(rendered):
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            reference = container["image"]
            assert re.search(r"(:[^/:@]+|@sha256:[0-9a-f]{64})$", reference), name
            assert not reference.endswith(":latest"), name


def test_secrets_are_named_and_never_written(rendered: list[Resource]) -> None:
    assert not of(rendered, "Secret")
    holds_secrets = re.compile(r"(_KEYS?|_KEY_ID|SECRET|PASSWORD|TOKEN|LEDGER_URL|AUTH_STRING)$")
    for name, spec in pods(rendered):
        for container in spec["containers"]:
            for variable in container["env"]:
                assert not holds_secrets.search(variable["name"]), f"{name}: {variable['name']}"
            (mount,) = [m for m in container["volumeMounts"] if m["name"] == "secrets"]
            assert mount["readOnly"], name
            for variable in container["env"]:
                if variable["name"].endswith("_FILE"):
                    assert Path(variable["value"]).parent == Path(mount["mountPath"]), f"{name}: {variable['name']}"
    assert "postgresql" not in json.dumps(rendered)


def test_what_runs_for_long_is_probed(rendered: list[Resource]) -> None:
    for deployment in of(rendered, "Deployment"):
        for container in containers(deployment):
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert container[probe]["httpGet"]["path"], deployment["metadata"]["name"]
    (server,) = of(rendered, "Deployment", "models-server")
    assert containers(server)[0]["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert containers(server)[0]["livenessProbe"]["httpGet"]["path"] == "/health", "a ledger that is away kills nobody"


def test_a_rolling_update_takes_no_pod_before_another_is_ready_and_lets_it_finish(rendered: list[Resource]) -> None:
    (server,) = of(rendered, "Deployment", "models-server")
    assert server["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    pod = server["spec"]["template"]["spec"]
    drain = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= drain + 45, "and the server answers and ships what it has"
    assert of(rendered, "PodDisruptionBudget")


def test_the_chart_leaves_to_deploy_what_is_deploys(rendered: list[Resource]) -> None:
    """Or every upgrade would put the release back."""
    (server,) = of(rendered, "Deployment", "models-server")
    assert "TRIMTAB_PRELOAD" not in json.dumps(server)
    assert "trimtab.io/release" not in json.dumps(server)
    assert ("replicas" in server["spec"]) != bool(of(rendered, "HorizontalPodAutoscaler"))


def test_prefect_is_told_after_a_rollback_too(rendered: list[Resource]) -> None:
    """Image and variables of flow runs are kept by Prefect: they would stay those of the newer revision."""
    (job,) = of(rendered, "Job")
    hooks = job["metadata"]["annotations"]["helm.sh/hook"].split(",")
    assert {"post-install", "post-upgrade", "post-rollback"} <= set(hooks)


def granted(rendered: list[Resource], account: str) -> list[dict[str, Any]]:
    """The rules of the Roles that are bound to *account*."""
    bindings = [b for b in of(rendered, "RoleBinding") if account in [s["name"] for s in b["subjects"]]]
    return [rule for b in bindings for role in of(rendered, "Role", b["roleRef"]["name"]) for rule in role["rules"]]


def may(rendered: list[Resource], account: str, verb: str, resource: str, name: str = "any") -> bool:
    """Whether *account* may do so, as the API server reads its rules; *resource* is group/kind, or a core kind."""
    group, _, kind = resource.rpartition("/") if resource.startswith(("apps/", "batch/")) else ("", "", resource)
    return any(
        {verb, "*"} & set(rule["verbs"])
        and {kind, "*"} & set(rule["resources"])
        and {group, "*"} & set(rule["apiGroups"])
        and name in rule.get("resourceNames", [name])
        for rule in granted(rendered, account)
    )


def test_accounts_may_do_only_what_they_must(rendered: list[Resource]) -> None:
    assert not of(rendered, "ClusterRole")
    assert not of(rendered, "ClusterRoleBinding")
    flow, worker = flow_job(rendered)["spec"]["template"]["spec"]["serviceAccountName"], "models-worker"
    assert may(rendered, flow, "patch", "apps/deployments", "models-server")
    assert may(rendered, worker, "create", "batch/jobs")
    for account, allowed in ((flow, {"deployments"}), (worker, {"jobs", "pods", "pods/log", "events"})):
        assert {kind for rule in granted(rendered, account) for kind in rule["resources"]} <= allowed
    for verb in ("get", "list", "watch", "create", "update", "patch", "delete"):
        for account in (flow, worker, "models-server", "models-exporter"):
            assert not may(rendered, account, verb, "apps/deployments", "another"), account
    for verb in ("create", "update", "delete"):
        assert not may(rendered, flow, verb, "apps/deployments", "models-server")
        assert not may(rendered, worker, verb, "pods")
    assert not granted(rendered, "models-server")
    assert not granted(rendered, "models-exporter")
    (server,) = of(rendered, "Deployment", "models-server")
    assert server["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_on_amazon_servers_and_flows_have_a_role_and_find_their_region_and_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rendered = render(values("production"))
    (server,) = of(rendered, "Deployment", "models-server")
    variables = [{v["name"]: v.get("value") for v in containers(pod)[0]["env"]} for pod in (server, flow_job(rendered))]
    for held in variables:
        assert "AWS_ACCESS_KEY_ID_FILE" not in held
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        for name in held.keys() & {"AWS_REGION", "AWS_DEFAULT_REGION"}:
            monkeypatch.setenv(name, held[name])
        assert boto3.Session().region_name == "eu-central-1"
    roles = {r["metadata"]["name"]: r["metadata"].get("annotations", {}) for r in of(rendered, "ServiceAccount")}
    having = {name for name, given in roles.items() if "eks.amazonaws.com/role-arn" in given}
    assert having == {"models-server", "models-flow"}
    for name in ("models-server", "models-flow"):
        (policy,) = [p["spec"] for p in of(rendered, "NetworkPolicy", name)]
        assert lets_out(policy, "52.219.170.1", 443), f"S3 in Frankfurt, for {name}"
        assert lets_out(policy, "3.5.134.1", 443), f"S3 in Frankfurt by another range, for {name}"
        assert not lets_out(policy, "3.5.134.1", 5432)
    assert not lets_out(of(rendered, "NetworkPolicy", "models-server")[0]["spec"], "10.1.2.3", 443)


def lets_out(policy: dict[str, Any], address: str, port: int) -> bool:
    """Whether a rule about blocks of addresses lets pods ask there."""
    asked = ipaddress.ip_address(address)
    return any(
        asked in ipaddress.ip_network(block["cidr"])
        and not any(asked in ipaddress.ip_network(other) for other in block.get("except", []))
        for rule in policy["egress"]
        if port in [one["port"] for one in rule["ports"]]
        for peer in rule.get("to", [])
        if (block := peer.get("ipBlock"))
    )


def test_every_pod_is_under_a_policy_and_nothing_reaches_the_worker_or_flows(rendered: list[Resource]) -> None:
    policies = {p["metadata"]["name"]: p["spec"] for p in of(rendered, "NetworkPolicy")}
    nothing = policies["models-nothing"]
    assert set(nothing["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in nothing
    assert "egress" not in nothing
    for _, template in [(r["metadata"]["name"], r["spec"]["template"]) for r in of(rendered, "Deployment")]:
        assert nothing["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    job = flow_job(rendered)["spec"]["template"]["metadata"]["labels"]
    assert job["app.kubernetes.io/component"] == "flow"
    assert "ingress" not in policies["models-worker"]
    assert "ingress" not in policies["models-flow"]


def addressed(policy: dict[str, Any], direction: str, component: str) -> list[Any]:
    """The ports at which pods of *component* are let through."""
    side = "from" if direction == "ingress" else "to"
    return [
        port["port"]
        for rule in policy[direction]
        for peer in rule.get(side, [])
        if peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/component") == component
        for port in rule["ports"]
    ]


def test_flows_find_every_pod_that_answers_users_by_one_name_and_may_ask_it(rendered: list[Resource]) -> None:
    """Starting and ending pods have no address there: they answer nobody, and deploy would take that for a refusal."""
    variables = {v["name"]: v.get("value") for v in containers(flow_job(rendered))[0]["env"]}
    asked = urlsplit(variables["TRIMTAB_SERVER_REPLICAS"])
    (each,) = of(rendered, "Service", "models-server-pods")
    (one,) = of(rendered, "Service", "models-server")
    assert each["spec"]["clusterIP"] == "None"
    assert each["spec"]["selector"] == one["spec"]["selector"]
    assert not each["spec"].get("publishNotReadyAddresses")
    assert "annotations" not in each["metadata"], "pods are scraped once"
    (server,) = of(rendered, "Deployment", "models-server")
    ports = {port["name"]: port["containerPort"] for port in containers(server)[0]["ports"]}
    assert asked.hostname == f"{each['metadata']['name']}.{each['metadata']['namespace']}.svc"
    assert asked.port == each["spec"]["ports"][0]["port"] == ports["http"], "the port of the pods themselves"
    assert each["spec"]["selector"].items() <= server["spec"]["template"]["metadata"]["labels"].items()
    policies = {p["metadata"]["name"]: p["spec"] for p in of(rendered, "NetworkPolicy")}
    assert addressed(policies["models-flow"], "egress", "server") == [ports["http"]]
    assert addressed(policies["models-server"], "ingress", "flow") == ["http"]


@pytest.mark.parametrize("nobody", ["users", "metrics"])
def test_a_list_of_peers_may_be_empty_and_flows_still_reach_the_server(nobody: str) -> None:
    (policy,) = of(render(merged(values("laptop"), {"network": {nobody: []}})), "NetworkPolicy", "models-server")
    assert addressed(policy["spec"], "ingress", "flow") == ["http"]
    (peers,) = [rule["from"] for rule in policy["spec"]["ingress"]]
    assert len(peers) == 2
    assert invalid(policy, VERSIONS[-1]) == ""


def test_prometheus_alone_reaches_the_exporter_which_has_few_secrets_and_no_account(rendered: list[Resource]) -> None:
    (exporter,) = of(rendered, "Deployment", "models-exporter")
    pod = exporter["spec"]["template"]["spec"]
    (service,) = of(rendered, "Service", "models-exporter")
    (port,) = containers(exporter)[0]["ports"]
    assert service["metadata"]["annotations"]["prometheus.io/port"] == str(port["containerPort"])
    environ = {v["name"]: v["value"] for v in containers(exporter)[0]["env"]}
    assert environ["TRIMTAB_EXPORTER_PORT"] == str(port["containerPort"])
    assert service["spec"]["selector"].items() <= exporter["spec"]["template"]["metadata"]["labels"].items()
    assert pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] in {account["metadata"]["name"] for account in of(rendered, "ServiceAccount")}
    assert pod["serviceAccountName"] not in {b["subjects"][0]["name"] for b in of(rendered, "RoleBinding")}
    (secrets,) = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "secrets"]
    assert {item["path"] for item in secrets["items"]} <= {"ledger-url", "prefect-auth"}
    named = [Path(value).name for name, value in environ.items() if name.endswith("_FILE")]
    assert sorted(named) == sorted(item["path"] for item in secrets["items"])
    (policy,) = [p["spec"] for p in of(rendered, "NetworkPolicy", "models-exporter")]
    (rule,) = policy["ingress"]
    (peer,) = rule["from"]
    assert peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] == "monitoring"
    assert [one["port"] for one in rule["ports"]] == [port["name"]]
    assert policy["podSelector"]["matchLabels"].items() <= exporter["spec"]["template"]["metadata"]["labels"].items()


def test_without_an_exporter_nothing_is_left_of_it() -> None:
    without = render(merged(values("laptop"), {"exporter": {"enabled": False}}))
    assert not [r for r in without if r["metadata"]["name"] == "models-exporter" and r["kind"] != "ServiceAccount"]


def test_servers_read_lists_of_keys_and_flows_send_a_key_of_their_own(rendered: list[Resource]) -> None:
    """A Secret's files are replaced under a running server, as long as the folder is mounted and not single files."""
    (server,) = of(rendered, "Deployment", "models-server")
    held = {v["name"]: v["value"] for v in containers(server)[0]["env"]}
    sent = {v["name"]: v.get("value") for v in containers(flow_job(rendered))[0]["env"]}
    assert held["TRIMTAB_ADMIN_KEYS_FILE"] != sent["TRIMTAB_SERVER_KEY_FILE"]
    assert "TRIMTAB_ADMIN_KEYS_FILE" not in sent
    assert not [mount for mount in containers(server)[0]["volumeMounts"] if "subPath" in mount]


def test_a_flow_run_is_started_with_our_image_and_hands_its_eviction_to_prefect(rendered: list[Resource]) -> None:
    container = containers(flow_job(rendered))[0]
    option, wrapper, *started = [*container["command"], *container["args"]][1:]
    assert option == "-m"
    assert importlib.util.find_spec(wrapper), "what reads the files of secrets"
    assert started[-3:] == ["prefect", "flow-run", "execute"]
    variables = {v["name"]: v.get("value") for v in container["env"]}
    assert "TRIMTAB_LEDGER_URL_FILE" in variables
    assert variables["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"


WRONG = {
    "latest": ({"images": {"server": {"tag": "latest"}}}, "tag"),
    "neither tag nor digest": ({"images": {"worker": {"tag": "", "digest": ""}}}, "worker"),
    "an address without /api": ({"addresses": {"prefect": "http://prefect:4200"}}, "prefect"),
    "no store": ({"addresses": {"store": ""}}, "store"),
    "no name of a Secret": ({"secret": {"name": ""}}, "name"),
    "a secret among the variables": ({"server": {"env": {"TRIMTAB_ADMIN_KEYS": "x"}}}, "ADMIN_KEYS"),
    "a password in an address": ({"flows": {"code": "git+https://me:pw@git.example/x.git"}}, "code"),
    "an unknown value": ({"server": {"replica": 3}}, "replica"),
    "no limits": ({"server": {"resources": {"limits": None}}}, "limits"),
    "an exporter without limits": ({"exporter": {"resources": {"limits": None}}}, "limits"),
    "a project with capitals": ({"project": "Flights"}, "project"),
}


@pytest.mark.parametrize(("wrong", "named"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_a_clear_error(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(helm_python.HelmError, match=named):
        render(merged(values("laptop"), wrong))


def test_forgetting_the_values_is_a_clear_error_as_well() -> None:
    with pytest.raises(helm_python.HelmError, match="project"):
        render({})


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for name, value in over.items():
        both[name] = merged(both.get(name) or {}, value) if isinstance(value, dict) else value
    return both
