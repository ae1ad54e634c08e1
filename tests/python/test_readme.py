"""What the README and docs/ show is what happens."""

import http.client
import os
import re
import shutil
import socket
import subprocess
import threading
import time

from conftest import ROOT

PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def anchors(path):
    """What a link to a heading of this page can name."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_link_leads_to_a_file_and_a_heading_that_exist():
    count = 0
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
            if re.match(r"\w+:", link):
                continue
            file, _, anchor = link.partition("#")
            target = ((ROOT / page).parent / file).resolve() if file else ROOT / page
            assert target.exists(), f"{page}: {link}"
            assert not anchor or anchor in anchors(target), f"{page}: {link}"
            count += 1
    assert count > 20


def test_the_tour_with_curl_shows_what_it_says(start_server):
    port = start_server()
    tour = "".join(blocks("README.md", "console"))
    run_tour(tour, port, steps=8)


def run_tour(tour, port, steps):
    """Runs the commands of a tour, and compares what they show."""
    found = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", tour, re.MULTILINE)
    assert len(found) == steps
    for command, expected in found:
        command = command.replace("localhost:3000", f"127.0.0.1:{port}")
        shown = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
        # A terminal shows a body that does not end its line just the same.
        assert shown.stdout.rstrip("\n") == expected.rstrip("\n"), command


def test_the_rooms_with_curl_show_what_they_say(start_server):
    port = start_server()
    (tour,) = blocks("docs/rooms.md", "console")
    run_tour(tour, port, steps=3)


def test_an_nginx_gives_a_room_a_host_name(start_server, tmp_path):
    port = start_server()
    (snippet,) = blocks("docs/rooms.md", "nginx")
    process, path = nginx(tmp_path, port, snippet)
    with process:
        try:
            page = UnixConnection(path)
            page.request("GET", "/sign_in?peer_name=alice", headers={"Host": "app1.example.org"})
            assert page.getresponse().read() == b"alice,1,1\n"
            room = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
            room.request("GET", "/rooms/app1/connections")
            assert b'"alice"' in room.getresponse().read()
        finally:
            process.terminate()


def test_the_library_example_is_the_one_that_is_run():
    (library,) = blocks("docs/library.md", "rust")
    example = (ROOT / "examples" / "custom_route.rs").read_text()
    code = [line.strip() for line in library.splitlines() if line.strip()]
    missing = [line for line in code if line not in example]
    # The example takes its port from the environment and can be stopped.
    assert missing == [
        'let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;',
        "serve(listener, app, peer_list, ServeOpts::default(), std::future::pending()).await;",
    ]


# What somebody writes who has read nothing.
PLAIN = "server { listen 80; location / { proxy_pass http://127.0.0.1:3000; } }"


def nginx(tmp_path, port, snippet=None):
    """nginx with the snippet of docs/ before this port, on a socket of its own."""
    if snippet is None:
        (snippet,) = blocks("docs/operating.md", "nginx")
    path = tmp_path / "nginx.sock"
    assert snippet.count("127.0.0.1:3000") == snippet.count("listen 80;") == 1
    snippet = snippet.replace("127.0.0.1:3000", f"127.0.0.1:{port}")
    snippet = snippet.replace("listen 80;", f"listen unix:{path};")
    temporary = "".join(
        f"{part}_temp_path {tmp_path}/{part};\n"
        for part in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Started as root, its workers would be somebody else without a right to
    # these folders.
    user = "user root;\n" if os.geteuid() == 0 else ""
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"{user}daemon off; pid {tmp_path}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off;\n{temporary}{snippet}}}\n"
    )
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    process = subprocess.Popen([program, "-p", tmp_path, "-c", config])
    return process, path


class UnixConnection(http.client.HTTPConnection):
    """A connection to nginx, as soon as that is up."""

    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = str(path)

    def connect(self):
        for _ in range(1000):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            try:
                return self.sock.connect(self.path)
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.01)
        raise AssertionError("nginx does not start")


def test_events_pass_an_nginx_with_default_settings(start_server, tmp_path):
    port = start_server(WEBRTC_ADMIN_LISTEN="127.0.0.1:0", WEBRTC_ADMIN_TOKEN="token")
    process, path = nginx(tmp_path, port.operator, PLAIN)
    with process:
        try:
            events = UnixConnection(path)
            events.request("GET", "/events", headers={"Authorization": "Bearer token"})
            stream = events.getresponse()
            assert stream.readline() == b": events follow\n"
            page = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
            page.request("GET", "/sign_in?peer_name=alice")
            page.getresponse().read()
            lines = iter(stream.readline, b"")
            assert next(line for line in lines if line.startswith(b"event:")) == b"event: connect\n"
        finally:
            process.terminate()


def test_the_nginx_snippet_serves_pages_sockets_and_native_clients(start_server, tmp_path):
    port = start_server()
    process, path = nginx(tmp_path, port)
    with process:
        try:
            page = UnixConnection(path)
            page.request("GET", "/sign_in?peer_name=page")
            assert page.getresponse().read() == b"page,1,1\n"
            native = UnixConnection(path)
            native.connect()
            native.sock.sendall(b"GET /sign_in?native HTTP/1.0\r\n\r\n")
            reply = native.sock.makefile("rb").read()
            head, _, body = reply.partition(b"\r\n\r\n")
            assert body == b"native,2,1\npage,1,1\n"
            assert b"\r\nContent-Length: 20" in head
            assert b"\r\nPragma: 2" in head
            assert head.count(b"\r\nConnection: close") == 1
            page.request("GET", "/wait?peer_id=1")
            assert page.getresponse().read() == b"native,2,1\npage,1,1\n"
            waiting = threading.Thread(target=page.request, args=("GET", "/wait?peer_id=1"))
            waiting.start()
            large = b"m" * 500_000
            sender = UnixConnection(path)
            sender.request("POST", "/message?peer_id=2&to=1", body=large)
            assert sender.getresponse().status == 200
            waiting.join()
            delivered = page.getresponse()
            assert delivered.getheader("Pragma") == "2"
            assert delivered.read() == large
            web_socket = UnixConnection(path)
            web_socket.connect()
            web_socket.sock.sendall(
                b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            received = b""
            while not received.endswith(b'"peerId":"3"}'):
                more = web_socket.sock.recv(4096)
                assert more, received
                received += more
            web_socket.close()
        finally:
            process.terminate()
