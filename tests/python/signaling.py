"""A client of the long-poll API, as small as it gets."""

import asyncio

import aiohttp


class Client:
    """Signs in, and gets its messages by polling."""

    def __init__(self, url):
        self.url = url
        self.id = None
        self.peers = {}
        self.messages = asyncio.Queue()

    async def __aenter__(self):
        self.http = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_):
        await self.http.close()

    async def sign_in(self, name):
        async with self.http.get(f"{self.url}/sign_in", params={"peer_name": name}) as reply:
            assert reply.status == 200
            self.id = int(reply.headers["Pragma"])
            self.read_list(await reply.text())

    async def poll(self):
        """Polls until the peer is signed out."""
        while True:
            params = {"peer_id": self.id}
            async with self.http.get(f"{self.url}/wait", params=params) as reply:
                if reply.status == 404:
                    return
                assert reply.status == 200
                sender = int(reply.headers["Pragma"])
                body = await reply.text()
            if sender == self.id:
                self.read_list(body)
            else:
                self.messages.put_nowait((sender, body))

    async def send(self, to, message):
        params = {"peer_id": self.id, "to": to}
        url = f"{self.url}/message"
        async with self.http.post(url, params=params, data=message) as reply:
            assert reply.status == 200

    async def sign_out(self):
        async with self.http.get(f"{self.url}/sign_out", params={"peer_id": self.id}) as reply:
            assert reply.status == 200

    def read_list(self, lines):
        entries = [line.split(",") for line in lines.splitlines()]
        self.peers = {int(peer): name for name, peer, _ in entries}
