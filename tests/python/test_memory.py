"""The worst that clients can do to the server's memory, against the formula in SECURITY.md."""

import base64
import os
import pathlib
import re
import socket
import struct

import pytest

KIB, MIB = 1 << 10, 1 << 20
LIMIT = 32 * MIB
MESSAGE = 512 * KIB
PEERS = 1000
CONNECTIONS = 200

SECURITY = pathlib.Path(__file__).resolve().parents[2] / "SECURITY.md"


class Attacker:
    """A client that opens connections and does not read them."""

    def __init__(self, port):
        self.port = port
        self.open = []

    def connect(self, receive_buffer=None):
        connection = socket.socket()
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", self.port))
        self.open.append(connection)
        return connection

    def sign_in(self, name="x"):
        connection = self.connect()
        connection.sendall(f"GET /sign_in?peer_name={name} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(4096)
        self.open.remove(connection)
        connection.close()
        found = re.search(rb"pragma: (\d+)", answer, re.IGNORECASE)
        return int(found[1]) if found else None

    def upgrade(self, path, **options):
        connection = self.connect(**options)
        key = base64.b64encode(os.urandom(16)).decode()
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        # Not a byte more than the head: the rest is not to be read.
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += connection.recv(1)
        return connection

    def until_refused(self, acts):
        """Until the server refuses or closes something."""
        for act in acts:
            try:
                act()
            except OSError:
                return


def frame(opcode, payload, final=True):
    """A frame of a WebSocket, masked with zeros."""
    length = len(payload)
    if length < 126:
        size = bytes([0x80 | length])
    elif length < 65536:
        size = b"\xfe" + struct.pack(">H", length)
    else:
        size = b"\xff" + struct.pack(">Q", length)
    return bytes([final << 7 | opcode]) + size + bytes(4) + payload


def messages(attacker, size):
    """Messages for peers that never read, until one is refused: more than there is room for."""
    sender = attacker.sign_in()
    receivers = [attacker.sign_in() for _ in range(40)]
    connection = attacker.connect()
    for number in range(4 * LIMIT // (size + 256)):
        to = receivers[number % len(receivers)]
        path = f"/message?peer_id={sender}&to={to}"
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
        connection.sendall(head.encode() + b"x" * size)
        if b" 200 " not in connection.recv(4096):
            return
    raise AssertionError("no message was refused")


def empty_messages(attacker):
    messages(attacker, 0)


def large_messages(attacker):
    messages(attacker, MESSAGE)


def bodies_that_do_not_end(attacker):
    head = f"POST /message?peer_id=1&to=1 HTTP/1.1\r\nHost: x\r\nContent-Length: {MESSAGE}\r\n\r\n"
    for _ in range(CONNECTIONS):
        attacker.connect().sendall(head.encode() + b"x" * (MESSAGE - 1))
    # The last one finds no room, and is answered at once.
    assert attacker.open[-1].recv(4096)


def heads_that_do_not_end(attacker):
    for _ in range(CONNECTIONS):
        attacker.connect().sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 65_000)


def messages_of_sockets_that_do_not_end(attacker):
    part = frame(1, b"x" * (MESSAGE - 1000), final=False)
    attacker.until_refused(lambda: attacker.upgrade("/").sendall(part) for _ in range(CONNECTIONS))


def names_of_sockets(attacker):
    said = b"".join(frame(1, b'42["keep-in-server",%d]' % number) for number in range(8000))
    path = "/socket.io/?EIO=4&transport=websocket"
    act = lambda: attacker.upgrade(path).sendall(frame(1, b"40") + said)
    attacker.until_refused(act for _ in range(40))


def post(connection, path, body):
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection.recv(4096)


def small_events_in_large_bodies(attacker):
    """A session that does not poll, so that its events wait, each in a body of its own."""
    connection = attacker.connect()
    connection.sendall(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\n\r\n")
    sid = re.search(rb'"sid":"([^"]+)"', connection.recv(4096))[1].decode()
    path = f"/socket.io/?EIO=4&transport=polling&sid={sid}"
    post(connection, path, b"40")
    # The answers fill what may wait for the client: from then on its events wait.
    post(connection, path, b"\x1e".join(b'42%d["iceServers"]' % number for number in range(450)))
    connection.settimeout(2)
    try:
        for _ in range(200):
            post(connection, path, b'42["x"]\x1e6' + b"x" * 500_000)
    except OSError:
        return


def announced_names(attacker):
    name = b'"' + b"n" * 500_000 + b'"'
    path = "/socket.io/?EIO=4&transport=websocket"
    sockets = [attacker.upgrade(path, receive_buffer=4096) for _ in range(25)]
    for connection in sockets:
        connection.settimeout(2)
        connection.sendall(frame(1, b"40"))
    sockets[0].sendall(frame(1, b'421["keep-in-server",' + name + b"]"))
    asked = frame(1, b'427["get-session-info",' + name + b"]")
    for _ in range(12):
        attacker.until_refused(lambda socket=socket: socket.sendall(asked) for socket in sockets[1:])


def lists_that_are_not_read(attacker):
    for number in range(PEERS):
        attacker.sign_in("n" * 250 + str(number))
    for number in range(CONNECTIONS):
        attacker.upgrade("/?events=true", receive_buffer=4096)
        attacker.sign_in("m" * 250 + str(number))


KINDS = [
    empty_messages,
    large_messages,
    bodies_that_do_not_end,
    heads_that_do_not_end,
    messages_of_sockets_that_do_not_end,
    names_of_sockets,
    small_events_in_large_bodies,
    announced_names,
    lists_that_are_not_read,
]


def formula():
    """The terms of the formula, as SECURITY.md has them."""
    text = SECURITY.read_text()
    found = re.search(
        r"(\d+) MiB \+ ([\d.]+) × `WEBRTC_MAX_BUFFERED_BYTES` \+ (\d+) KiB × peers \+ (\d+) KiB × connections",
        text,
    )
    server, buffered, peer, connection = map(float, found.groups())
    return lambda held, peers, connections: (
        server * MIB + buffered * held + peer * KIB * peers + connection * KIB * connections
    )


# What these hold is not counted, but bounded by the connections and the peers.
UNCOUNTED = [heads_that_do_not_end, small_events_in_large_bodies, lists_that_are_not_read]


def resident(pid):
    """How much memory a process has, at most so far, in bytes."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * KIB


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_server_holds_no_more_than_the_formula_says(start_server, kind):
    server = start_server(
        WEBRTC_MAX_BUFFERED_BYTES=str(LIMIT), WEBRTC_HEARTBEAT_MS="600000"
    )
    attacker = Attacker(server)
    kind(attacker)
    # What was sent is read by now: this comes after it.
    Attacker(server).sign_in()
    peers = PEERS + CONNECTIONS if kind is lists_that_are_not_read else CONNECTIONS
    limit = 0 if kind in UNCOUNTED else LIMIT
    held, bound = resident(server.pid), formula()(limit, peers, len(attacker.open))
    print(f"{kind.__name__}: {held / MIB:.1f} MiB of {bound / MIB:.1f}")
    assert held <= bound
    for connection in attacker.open:
        connection.close()
