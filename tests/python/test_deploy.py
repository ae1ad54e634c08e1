"""What deploy/ has is what systemd, Kubernetes and Compose take."""

import json
import re
import subprocess
import urllib.request

import kubernetes_validate
import pytest
import yaml

from conftest import BINARY, ROOT

DEPLOY = ROOT / "deploy"


def test_the_unit_is_what_systemd_takes_and_well_hardened(tmp_path):
    unit = (DEPLOY / "systemd" / "signal-http-heartbeat.service").read_text()
    # The program has to exist for the check.
    copy = tmp_path / "signal-http-heartbeat.service"
    copy.write_text(unit.replace("ExecStart=signal-http-heartbeat", f"ExecStart={BINARY}"))
    verified = subprocess.run(
        ["systemd-analyze", "verify", copy], capture_output=True, text=True
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", copy],
        capture_output=True,
        text=True,
    )
    assert rated.returncode == 0, rated.stdout


def test_the_manifests_are_what_kubernetes_takes():
    manifests = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    assert [manifest["kind"] for manifest in manifests] == [
        "Deployment",
        "Service",
        "Service",
        "PodDisruptionBudget",
    ]
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.30", strict=True)


def test_what_is_wrong_in_a_manifest_is_found():
    wrong = yaml.safe_load((DEPLOY / "kubernetes.yaml").read_text().split("---")[0])
    wrong["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.30", strict=True)


@pytest.mark.parametrize("file", sorted(DEPLOY.glob("compose*.yml")), ids=lambda file: file.name)
def test_compose_files_name_only_what_there_is(file):
    compose = yaml.safe_load(file.read_text())
    settings = (ROOT / "docs" / "settings.md").read_text()
    for name, service in compose["services"].items():
        service = service or {}
        for volume in service.get("volumes", []):
            host, _, _ = volume.partition(":")
            if host.startswith("./") and host != "./certs":
                assert (DEPLOY / host).exists(), f"{name}: {volume}"
        for variable in service.get("environment", {}):
            assert f"| `{variable}` |" in settings, f"{name}: {variable}"


PROMETHEUS = DEPLOY / "prometheus"


def promtool(*arguments, cwd):
    return subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True)


def test_prometheus_takes_its_settings_and_the_alerts():
    checked = promtool("check", "config", "prometheus.yml", cwd=PROMETHEUS)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_each_alert_is_raised_when_it_should_be_and_then_only(tmp_path):
    for file in (PROMETHEUS / "alerts.yml", ROOT / "tests" / "python" / "alerts_test.yml"):
        (tmp_path / file.name).write_text(file.read_text())
    tested = promtool("test", "rules", "alerts_test.yml", cwd=tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_dashboard_and_the_alerts_ask_only_for_metrics_that_there_are(start_server):
    source = (ROOT / "src" / "operator" / "metrics.rs").read_text()
    known = {f"signal_{name}" for name in re.findall(r'"([a-z_]+)",\s+help', source)}
    port = start_server(WEBRTC_ADMIN_LISTEN="127.0.0.1:0")
    with urllib.request.urlopen(f"http://127.0.0.1:{port.operator}/metrics") as answer:
        shown = set(re.findall(r"^# TYPE (\S+)", answer.read().decode(), re.MULTILINE))
    # Those of the webhook and of Redis are shown only where there is one.
    assert {name for name in shown if name.startswith("signal_")} <= known
    dashboard = json.loads((PROMETHEUS / "grafana-dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
    asked += [rule["expr"] for rule in rules]
    assert len(rules) == 4
    names = set(re.findall(r"\b(?:signal|process)_\w+", " ".join(asked)))
    assert names <= known | shown
    # And the dashboard leaves nothing out.
    assert known - names == {"signal_build_info"}


PANELS = json.loads((PROMETHEUS / "grafana-dashboard.json").read_text())["panels"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_each_query_of_the_dashboard_is_one_of_prometheus(panel, tmp_path):
    rules = [
        {"record": f"a:{at}", "expr": target["expr"].replace("$__rate_interval", "1m")}
        for at, target in enumerate(panel["targets"])
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "a", "rules": rules}]}))
    checked = promtool("check", "rules", "rules.yml", cwd=tmp_path)
    assert checked.returncode == 0, panel["title"] + checked.stdout + checked.stderr
