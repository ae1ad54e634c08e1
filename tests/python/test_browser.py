"""A page in a real browser, on a WebSocket, and a long-poll peer."""

import asyncio
import contextlib
import pathlib
import shutil
import signal
import subprocess

from aiohttp import web

from signaling import Client
from test_webrtc import caller

PAGES = pathlib.Path(__file__).parent


@contextlib.asynccontextmanager
async def served_pages():
    """Serves the pages of this folder, and yields their address."""
    app = web.Application()
    app.router.add_static("/", PAGES)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    (address,) = runner.addresses
    yield f"http://127.0.0.1:{address[1]}"
    await runner.cleanup()


@contextlib.contextmanager
def browser(url, profile):
    """A headless Chromium that shows a page."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "chromium is missing: make install"
    process = subprocess.Popen(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            # The other peer cannot look up names of mDNS here.
            "--disable-features=WebRtcHideLocalIpsWithMdns",
            f"--user-data-dir={profile}",
            "--remote-debugging-port=0",
            url,
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


async def call_the_browser(port, profile):
    async with served_pages() as pages, Client(f"http://127.0.0.1:{port}") as alice:
        await alice.sign_in("alice")
        poll = asyncio.create_task(alice.poll())
        with browser(f"{pages}/callee.html?server=ws://127.0.0.1:{port}", profile):
            while "browser" not in alice.peers.values():
                await asyncio.sleep(0.05)
            (callee,) = [peer for peer, name in alice.peers.items() if name == "browser"]
            connection, echo = await caller(alice, callee)
            assert echo == "hello"
            await connection.close()
        # Its socket went with it.
        while "browser" in alice.peers.values():
            await asyncio.sleep(0.05)
        await alice.sign_out()
        await poll


def test_a_browser_on_a_websocket_and_a_long_poll_peer_open_a_data_channel(start_server, tmp_path):
    call = call_the_browser(start_server(), tmp_path)
    asyncio.run(asyncio.wait_for(call, timeout=60))
