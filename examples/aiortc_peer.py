"""A peer in Python to which pages can talk: it sends back whatever it hears.

    pip install aiohttp aiortc
    python aiortc_peer.py http://localhost:3000 echo

Then open http://localhost:3000, join, and talk to "echo". It speaks the WebSocket with
acknowledgements (docs/protocols.md): a lost connection loses no message. On top of that it speaks
the messages of rtc.js, which are `{"rtc": {"session", "to", ..}}` with `description`,
`candidate` or `closed`.
"""

import asyncio
import json
import secrets
import sys

import aiohttp
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import candidate_from_sdp

UNKNOWN_PEER = 4004  # the code with which the server closes the socket of a peer that it has removed
PAUSE = 1  # seconds before the next attempt to reach the server


class Signaling:
    """A client of the server: messages arrive once and in order."""

    def __init__(self, url, name):
        self.url, self.name = url.rstrip("/"), name
        self.heard = asyncio.Queue()  # (from, data)
        self.unsent = {}  # the messages that the server does not have yet, by their numbers
        self.socket = None
        self.later = set()  # messages that are sent again
        self.forget()

    def forget(self):
        """Begins as another peer."""
        self.id = self.token = None
        self.processed = self.last = 0
        self.unsent.clear()

    async def send(self, to, data):
        self.last += 1
        message = {"type": "message", "seq": self.last, "to": to, "data": json.dumps(data)}
        self.unsent[self.last] = message
        # One after the other: the next one goes when this one is answered.
        if len(self.unsent) == 1:
            await self.send_next()

    async def send_next(self):
        if self.unsent and self.socket and not self.socket.closed:
            await self.socket.send_json(next(iter(self.unsent.values())))

    async def run(self):
        """Stays connected until it is cancelled."""
        async with aiohttp.ClientSession() as http:
            while True:
                query = {"peer_name": self.name, "ack": str(self.processed)}
                if self.id:
                    query |= {"peer_id": self.id, "peer_token": self.token}
                try:
                    # A connection that is silent for too long is dead.
                    connecting = http.ws_connect(f"{self.url}/ws", params=query, heartbeat=20)
                    async with connecting as self.socket:
                        async for frame in self.socket:
                            if frame.type == aiohttp.WSMsgType.TEXT:
                                await self.hear(json.loads(frame.data))
                        if self.socket.close_code == UNKNOWN_PEER:
                            self.forget()
                except (aiohttp.ClientError, OSError) as error:
                    print(f"the server cannot be reached: {error}", file=sys.stderr)
                await asyncio.sleep(PAUSE)

    async def hear(self, frame):
        kind = frame["type"]
        if kind == "id":
            self.id, self.token = frame["peerId"], frame["peerToken"]
            print(f"signed in as {self.name}, peer {self.id}", flush=True)
            await self.send_next()
        elif kind == "message":
            if frame["seq"] > self.processed:
                self.processed = frame["seq"]
                self.heard.put_nowait((frame["from"], frame["data"]))
            await self.socket.send_json({"type": "ack", "seq": self.processed})
        elif kind == "refused" and frame["error"] == "mailbox_full":
            # It was not accepted: it is tried again under another number, a little later.
            message, token = self.unsent.pop(frame["seq"]), self.token
            again = asyncio.ensure_future(self.again(message, token))
            self.later.add(again)
            again.add_done_callback(self.later.discard)
            await self.send_next()
        elif kind in ("sent", "refused"):
            # A refused message is dropped: its receiver has left, or it can never be accepted.
            self.unsent.pop(frame.get("seq", next(iter(self.unsent), None)), None)
            await self.send_next()

    async def again(self, message, token):
        await asyncio.sleep(PAUSE)
        # To another peer, the id of the receiver may mean somebody else.
        if token == self.token:
            await self.send(message["to"], json.loads(message["data"]))

    async def sign_out(self):
        if self.id:
            async with aiohttp.ClientSession() as http:
                await http.post(f"{self.url}/sign_out", params={"peer_id": self.id, "peer_token": self.token})


class Connection:
    """The WebRTC connection to one page, which makes the offers."""

    def __init__(self, signaling, peer, theirs, closed):
        self.signaling, self.peer, self.theirs, self.closed = signaling, peer, theirs, closed
        self.session = secrets.token_hex(8)
        self.webrtc = RTCPeerConnection()
        self.webrtc.on("connectionstatechange", self.changed)
        self.webrtc.on("datachannel", self.opened)

    async def changed(self):
        """Gives the connection up when its page is gone, or has closed it."""
        if self.webrtc.connectionState == "failed":
            await self.webrtc.close()
        if self.webrtc.connectionState == "closed":
            self.closed(self)

    def opened(self, channel):
        channel.on("message", lambda text: channel.send(f"{self.signaling.name}: {text}"))

    async def hear(self, description=None, candidate=None, **_):
        if description:
            await self.webrtc.setRemoteDescription(RTCSessionDescription(description["sdp"], description["type"]))
            await self.webrtc.setLocalDescription(await self.webrtc.createAnswer())
            # aiortc has all its candidates in the description.
            answer = {"type": self.webrtc.localDescription.type, "sdp": self.webrtc.localDescription.sdp}
            rtc = {"session": self.session, "to": self.theirs, "description": answer}
            await self.signaling.send(self.peer, {"rtc": rtc})
        elif candidate and candidate["candidate"]:
            parsed = candidate_from_sdp(candidate["candidate"].removeprefix("candidate:"))
            parsed.sdpMid, parsed.sdpMLineIndex = candidate["sdpMid"], candidate["sdpMLineIndex"]
            await self.webrtc.addIceCandidate(parsed)


async def main(url="http://localhost:3000", name="echo"):
    signaling = Signaling(url, name)
    try:
        await asyncio.gather(signaling.run(), serve(signaling))
    finally:
        await signaling.sign_out()


async def serve(signaling):
    connections = {}

    def closed(connection):
        if connections.get(connection.peer) is connection:
            del connections[connection.peer]

    while True:
        peer, data = await signaling.heard.get()
        try:
            rtc = json.loads(data)["rtc"]
            known = connections.get(peer)
            is_known = known is not None and known.theirs == rtc["session"]
            if not is_known and (rtc.get("description") or {}).get("type") == "offer":
                # Perhaps a page that was loaded again: its earlier connection is gone.
                if known:
                    await known.webrtc.close()
                known = connections[peer] = Connection(signaling, peer, rtc["session"], closed)
                print(f"peer {peer} connects", flush=True)
            elif not is_known:
                continue
            if rtc.get("closed"):
                await known.webrtc.close()
            else:
                await known.hear(**rtc)
        except Exception as error:  # whatever a peer sends, the others are served
            print(f"peer {peer} sent something other than a message of rtc.js: {error!r}", file=sys.stderr)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        pass
