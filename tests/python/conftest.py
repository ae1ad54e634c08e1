"""A server of its own for each test: the binary, on a free port."""

import contextlib
import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARY = ROOT / TARGET / "debug" / "signal-http-heartbeat"


class Port(int):
    """The port of a server, its process, and the port of its operator's API if it has one."""

    operator = None
    pid = None


def port_of(address):
    return int(address.rpartition(":")[2])


@contextlib.contextmanager
def running_server(**variables):
    """Starts the server with these settings and yields its port."""
    process = subprocess.Popen(
        [BINARY],
        env={"HOST": "127.0.0.1", "PORT": "0", **variables},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            ready = json.loads(process.stdout.readline())
            assert ready["message"] == "ready"
            port = Port(port_of(ready["address"]))
            port.pid = process.pid
            if "operator" in ready:
                port.operator = port_of(ready["operator"])
            yield port
        finally:
            process.terminate()
            # Read to the end, so that its log cannot fill the pipe.
            process.stdout.read()
    assert process.returncode == 0


@pytest.fixture
def start_server():
    """Starts servers that end with the test."""
    with contextlib.ExitStack() as servers:
        yield lambda **variables: servers.enter_context(running_server(**variables))
