"""The server does what openapi.yml says, and nothing else."""

import pathlib
import subprocess
import sys
import urllib.request

import pytest

from conftest import ROOT


@pytest.mark.long
def test_the_server_keeps_to_its_description(start_server, tmp_path):
    # Short waits, and no limit that a run could reach: a 503 would be right
    # then, but here every 5xx is a failure.
    port = start_server(
        WEBRTC_WAIT_MS="20",
        WEBRTC_MAX_PEERS="1000000",
        WEBRTC_HEARTBEAT_MS="600000",
        WEBRTC_DOORS="http,websocket,socketio,peerjs,topics,matchbox",
    )
    # So that small ids are those of peers.
    for number in range(100):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/sign_in?peer_name={number}").close()
    check(tmp_path, port, "--exclude-tag=operator")


def test_the_operators_api_keeps_to_its_description(start_server, tmp_path):
    port = start_server(WEBRTC_HEARTBEAT_MS="600000", WEBRTC_ADMIN_LISTEN="127.0.0.1:0")
    for number in range(100):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/sign_in?peer_name={number}").close()
    # A stream has no end to be checked.
    check(tmp_path, port.operator, "--include-tag=operator", "--exclude-operation-id=events")


def check(tmp_path, port, *which):
    schemathesis = pathlib.Path(sys.executable).parent / "schemathesis"
    command = [
        schemathesis,
        "run",
        ROOT / "openapi.yml",
        f"--url=http://127.0.0.1:{port}",
        *which,
        "--checks=all",
        "--max-examples=25",
        "--workers=1",
        "--request-timeout=20",
        "--seed=1",
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    print(run.stdout, run.stderr)
    assert run.returncode == 0
