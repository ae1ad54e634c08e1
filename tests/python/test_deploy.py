"""What deploy/ has is what systemd, Kubernetes and Compose take."""

import subprocess

import kubernetes_validate
import pytest
import yaml

from conftest import BINARY, ROOT

DEPLOY = ROOT / "deploy"


def test_the_unit_is_what_systemd_takes_and_well_hardened(tmp_path):
    unit = (DEPLOY / "systemd" / "signal-http-heartbeat.service").read_text()
    # The program has to exist for the check.
    copy = tmp_path / "signal-http-heartbeat.service"
    copy.write_text(unit.replace("/usr/local/bin/signal-http-heartbeat", str(BINARY)))
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
