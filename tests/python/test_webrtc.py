"""Two real WebRTC peers find each other through the server."""

import asyncio
import json

from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import candidate_from_sdp, candidate_to_sdp

from signaling import Client


def without_candidates(sdp):
    """The description as a browser sends it that trickles its candidates."""
    lines = sdp.splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(("a=candidate", "a=end-of"))]
    return "".join(kept)


async def send_description(client, to, connection):
    description = connection.localDescription
    message = {"type": description.type, "sdp": without_candidates(description.sdp)}
    await client.send(to, json.dumps(message))
    gatherer = connection.sctp.transport.transport.iceGatherer
    candidates = [candidate_to_sdp(one) for one in gatherer.getLocalCandidates()]
    assert candidates
    for candidate in [*candidates, None]:
        await client.send(to, json.dumps({"candidate": candidate}))


async def receive_description(client, connection):
    """Takes the other side's description and all its candidates."""
    while True:
        sender, message = await client.messages.get()
        message = json.loads(message)
        if "sdp" in message:
            description = RTCSessionDescription(message["sdp"], message["type"])
            await connection.setRemoteDescription(description)
        elif message["candidate"] is None:
            await connection.addIceCandidate(None)
            return sender
        else:
            candidate = candidate_from_sdp(message["candidate"])
            candidate.sdpMLineIndex = 0
            await connection.addIceCandidate(candidate)


async def callee(client):
    """Answers one call, and sends back what comes over the data channel."""
    connection = RTCPeerConnection()
    connection.on("datachannel", lambda channel: channel.on("message", channel.send))
    caller = await receive_description(client, connection)
    await connection.setLocalDescription(await connection.createAnswer())
    await send_description(client, caller, connection)
    return connection


async def caller(client, to):
    """Calls a peer, and returns what comes back over the data channel."""
    connection = RTCPeerConnection()
    channel = connection.createDataChannel("chat")
    echo = asyncio.get_running_loop().create_future()
    channel.on("open", lambda: channel.send("hello"))
    channel.on("message", echo.set_result)
    await connection.setLocalDescription(await connection.createOffer())
    await send_description(client, to, connection)
    await receive_description(client, connection)
    return connection, await echo


async def call(url):
    async with Client(url) as alice, Client(url) as bob:
        await bob.sign_in("bob")
        await alice.sign_in("alice")
        polls = [asyncio.create_task(client.poll()) for client in (alice, bob)]
        (bobs_id,) = [peer for peer, name in alice.peers.items() if name == "bob"]
        answered, (called, echo) = await asyncio.gather(callee(bob), caller(alice, bobs_id))
        assert echo == "hello"
        assert bob.peers == {alice.id: "alice", bob.id: "bob"}
        await called.close()
        await answered.close()
        await alice.sign_out()
        await bob.sign_out()
        await asyncio.gather(*polls)


def test_two_peers_open_a_data_channel_through_the_long_poll_api(start_server):
    port = start_server()
    asyncio.run(asyncio.wait_for(call(f"http://127.0.0.1:{port}"), timeout=60))
