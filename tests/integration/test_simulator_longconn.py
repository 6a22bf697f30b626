"""The simulator's long connection: delivery, acks, the ladder, refusals and faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import aiohttp
import pytest
from sim_client import Json, WireClient, endpoint, wire_client

from larkline.sim import frames
from larkline.sim.faults import HandshakeRefusal
from larkline.sim.frames import WireFrame
from larkline.sim.people import Click
from larkline.sim.platform import Platform


async def test_event_reaches_one_client_and_the_ack_is_timed() -> None:
    """A message becomes one pushed event; a 200 ack ends its delivery and its time is known."""
    async with Platform() as p, wire_client(p) as client:
        sent = p.people.send("lin", "你好")
        frame, event = await client.event()
        assert frame.headers["type"] == "event"
        assert frame.headers["sum"] == "1"
        assert event["header"]["event_type"] == "im.message.receive_v1"
        body = event["event"]
        assert json.loads(body["message"]["content"]) == {"text": "你好"}
        assert body["sender"]["sender_id"]["open_id"] == p.open_id(p.users[0])
        await client.ack(frame)
        assert sent.delivery is not None
        await p.until(lambda: sent.delivery is not None and sent.delivery.state == "acked")
        assert len(p.ack_seconds()) == 1
        assert 0 <= p.ack_seconds()[0] < 1
        assert p.connections.malformed == []


async def test_unacknowledged_event_climbs_the_whole_ladder_with_one_event_id() -> None:
    """No ack: pushed again after 15 s, 5 min, 1 h and 6 h, then given up."""
    async with Platform() as p, wire_client(p) as client:
        sent = p.people.send("lin", "anyone?")
        assert sent.delivery is not None
        ids = []
        for wait in (15, 300, 3600, 21600):
            ids.append((await client.event())[1]["header"]["event_id"])
            await p.clock.advance(3.01)
            await p.clock.advance(wait - 1)
            assert len(sent.delivery.pushes) == len(ids)
            await p.clock.advance(1.1)
        ids.append((await client.event())[1]["header"]["event_id"])
        await p.clock.advance(4)
        assert sent.delivery.state == "given_up"
        assert len(set(ids)) == 1
        assert len(ids) == 5


async def test_ack_500_is_retried_and_a_later_200_ends_it() -> None:
    """An ack with code 500 counts as failed; the next rung's 200 ends the delivery."""
    async with Platform() as p, wire_client(p) as client:
        sent = p.people.send("lin", "x")
        assert sent.delivery is not None
        frame, _ = await client.event()
        await client.ack(frame, 500)
        await p.until(lambda: sent.delivery is not None and sent.delivery.rung == 1)
        await p.clock.advance(15.1)
        frame, _ = await client.event()
        await client.ack(frame)
        await p.until(lambda: sent.delivery is not None and sent.delivery.state == "acked")
        assert [push.code for push in sent.delivery.pushes] == [500, 200]


async def test_a_jump_waits_for_an_ack_on_its_way() -> None:
    """Advancing hours lets a client that answers at once settle its event first."""
    async with Platform() as p, wire_client(p) as client:
        sent = p.people.send("lin", "x")
        frame, _ = await client.event()
        await client.ack(frame)
        await p.clock.advance(7200)
        assert sent.delivery is not None
        assert sent.delivery.state == "acked"
        assert len(sent.delivery.pushes) == 1


async def test_event_without_a_connection_waits_on_the_ladder() -> None:
    """What is written while nobody is connected comes with the next rung."""
    async with Platform() as p:
        p.people.send("lin", "while you were out")
        async with wire_client(p) as client:
            await p.clock.advance(15.1)
            frame, event = await client.event()
            assert "while you were out" in event["event"]["message"]["content"]
            await client.ack(frame)


async def test_each_event_goes_to_one_of_several_connections() -> None:
    """Cluster mode: every event to exactly one client, and each client gets some."""
    async with Platform() as p, wire_client(p), wire_client(p), wire_client(p):
        sent = [p.people.send("lin", str(n)) for n in range(60)]
        pushes = [push for s in sent if s.delivery for push in s.delivery.pushes]
        assert len(pushes) == 60
        assert len({push.connection for push in pushes}) == 3


async def test_big_payload_comes_in_fragments() -> None:
    """Fragments share SeqID and message_id, carry sum and seq, and join to the body."""
    async with Platform() as p, wire_client(p) as client:
        p.faults.fragment_bytes = 1000
        sent = p.people.send("lin", "长" * 2000)
        parts = [await client.frame()]
        total = int(parts[0].headers["sum"])
        parts += [await client.frame() for _ in range(total - 1)]
        assert [int(part.headers["seq"]) for part in parts] == list(range(total))
        assert len({part.headers["message_id"] for part in parts}) == 1
        body = json.loads(b"".join(part.payload for part in parts))
        assert json.loads(body["event"]["message"]["content"])["text"] == "长" * 2000
        await client.ack(parts[-1])
        await p.until(lambda: sent.delivery is not None and sent.delivery.state == "acked")


async def test_ping_gets_a_pong_with_the_client_config() -> None:
    """A pong carries the config of this moment; muted pongs leave the events alone."""
    async with Platform() as p, wire_client(p) as client:
        p.connections.config.ping_interval = 7
        await client.ping()
        pong = await client.frame()
        assert (pong.method, pong.headers["type"]) == (frames.CONTROL, "pong")
        assert json.loads(pong.payload)["PingInterval"] == 7
        p.faults.mute_pongs = True
        await client.ping()
        p.people.send("lin", "still here")
        assert (await client.frame()).method == frames.DATA


@pytest.mark.parametrize("fault", ["deaf", "half_open"])
async def test_a_deaf_connection_stays_open_and_says_nothing(fault: str) -> None:
    """Deaf or half-open: no pong, no event, no close."""
    async with Platform() as p, wire_client(p) as client:
        if fault == "deaf":
            p.faults.deaf = True
        else:
            assert p.connections.half_open() == 1
        await client.ping()
        sent = p.people.send("lin", "hello?")
        with pytest.raises(TimeoutError):
            await client.frame(0.3)
        assert not client.socket.closed
        assert sent.delivery is not None
        assert sent.delivery.state == "pending"


async def test_half_open_line_answers_no_protocol_ping() -> None:
    """A client whose websocket library pings notices; on a deaf line it does not."""
    async with Platform() as p, aiohttp.ClientSession() as session:
        url = (await endpoint(p, session))["data"]["URL"]
        async with session.ws_connect(url, heartbeat=0.4) as socket:
            await p.connected()
            p.faults.deaf = True
            # Not the timeout of `receive`: each of the library's own pongs starts it anew.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.2):
                    await socket.receive()
            assert p.connections.half_open() == 1
            async with asyncio.timeout(5):
                message = await socket.receive()
            assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)


@pytest.mark.parametrize("rude", [True, False])
async def test_dropped_connection_ends_at_the_client(rude: bool) -> None:
    """`drop` cuts the line, with or without a close frame."""
    async with Platform() as p, wire_client(p) as client:
        await p.connected()
        assert await p.connections.drop(rude=rude) == 1
        message = await client.socket.receive(timeout=5)
        assert message.type in (
            aiohttp.WSMsgType.CLOSE,
            aiohttp.WSMsgType.CLOSED,
            aiohttp.WSMsgType.ERROR,
        )
        await p.until(lambda: not p.connections.links)


async def test_endpoint_refuses_as_told_then_recovers() -> None:
    """Codes queue up; a wrong secret and an unknown app are refused on their own."""
    async with Platform() as p, aiohttp.ClientSession() as session:
        p.faults.endpoint_codes = [1, 1000040343, 403]
        codes = [(await endpoint(p, session))["code"] for _ in range(4)]
        assert codes == [1, 1000040343, 403, 0]
        p.app.secret = "changed"
        url = p.url + "/callback/ws/endpoint"
        async with session.post(url, json={"AppID": p.app.app_id, "AppSecret": "x"}) as answer:
            assert (await answer.json())["code"] == 1000040345


async def test_refused_handshake_says_why_in_headers() -> None:
    """The three headers carry status, message and auth code; a used ticket is refused."""
    async with Platform() as p, aiohttp.ClientSession() as session:
        p.faults.handshakes.append(HandshakeRefusal(514, "auth failed", 1000040350))
        url = (await endpoint(p, session))["data"]["URL"]
        for expected in ("1000040350", "1000040346"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(url)
            assert refused.value.headers is not None
            assert refused.value.headers["handshake-status"] == "514"
            assert refused.value.headers["handshake-autherrcode"] == expected


async def test_connection_limit() -> None:
    """One connection more than allowed is refused with 1000040350, at either door."""
    async with Platform() as p, wire_client(p), aiohttp.ClientSession() as session:
        p.connections.max_connections = 1
        url = (await endpoint(p, session))["data"]["URL"]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(url)
        assert refused.value.headers is not None
        assert refused.value.headers["handshake-autherrcode"] == "1000040350"
        p.variants.connection_limit_at = "endpoint"
        assert (await endpoint(p, session))["code"] == 1000040350


async def test_malformed_frames_of_the_client_are_noted() -> None:
    """What is no frame, or acknowledges nothing, is written down and does no harm."""
    async with Platform() as p, wire_client(p) as client:
        await client.socket.send_bytes(b"\xff\xff")
        await client.socket.send_bytes(
            frames.encode(WireFrame(frames.DATA, {"message_id": "?"}, b"{}", seq_id=99))
        )
        await client.ping()
        assert (await client.frame()).headers["type"] == "pong"
        assert len(p.connections.malformed) == 2


async def test_held_events_come_shuffled_and_doubled() -> None:
    """Ten held messages, two copies each, in an order that the seed decides."""
    async with Platform(seed=3) as p, wire_client(p) as client:
        p.deliveries.hold()
        sent = [p.people.send("lin", str(n)) for n in range(10)]
        p.deliveries.release(shuffle=True, copies=2)
        got = []
        for _ in range(20):
            frame, event = await client.event()
            got.append(event["event"]["message"]["message_id"])
            await client.ack(frame)
        ids = [s.message.message_id for s in sent]
        assert sorted(got) == sorted(ids * 2)
        assert got != ids * 2
        await p.until(lambda: all(s.delivery and s.delivery.state == "acked" for s in sent))


async def _answered(
    click: Coroutine[Any, Any, Click], client: WireClient
) -> tuple[asyncio.Task[Click], WireFrame, Json]:
    """Start a click and take its event."""
    done = asyncio.create_task(click)
    frame, event = await client.event()
    return done, frame, event


async def test_click_answers() -> None:
    """A toast comes back; no answer in 3 s is 200340, a 500 is 200671, nonsense is 200672."""
    async with Platform() as p, wire_client(p) as client:
        chat = p.p2p(p.users[0])
        message = p.world.post(chat, "app", p.app.app_id, "interactive", "{}")
        for value in ({"do": "stop"}, "plain text"):
            click = p.people.click("lin", message, value=value)
            done, frame, event = await _answered(click, client)
            assert event["event"]["action"]["value"] == value
            await client.ack(frame, answer={"toast": {"type": "info", "content": "好"}})
            outcome = await done
            assert (outcome.code, outcome.toast) == (0, {"type": "info", "content": "好"})
        for code, answer, expected in ((500, None, 200671), (200, {"toast": 3}, 200672)):
            done, frame, _ = await _answered(p.people.click("lin", message, value={"n": 1}), client)
            await client.ack(frame, code, answer)
            assert (await done).code == expected
        done, _, _ = await _answered(p.people.click("lin", message, value={"n": 2}), client)
        await p.clock.advance(3.1)
        outcome = await done
        assert outcome.code == 200340
        await p.clock.advance(30000)
        assert len(outcome.delivery.pushes) == 1


async def test_anything_can_be_pushed() -> None:
    """Bytes that are no frame, unknown event types and broken bodies go out as told."""
    async with Platform() as p, wire_client(p) as client:
        await p.connected()
        assert p.connections.send_raw(b"no frame") == 1
        assert await client.socket.receive_bytes(timeout=5) == b"no frame"
        p.deliveries.submit(p.app, "larkline.invented_v1", {"x": 1})
        frame, event = await client.event()
        assert event["header"]["event_type"] == "larkline.invented_v1"
        await client.ack(frame)
        broken = p.deliveries.submit_body(p.app, "ev", "im.message.receive_v1", b"{broken")
        frame = await client.frame()
        assert frame.payload == b"{broken"
        await client.ack(frame)
        await p.until(lambda: broken.state == "acked")


async def test_latency_acks_and_drops_as_told() -> None:
    """Late and ignored acks lead to another push; the late ack is noted as such."""
    async with Platform() as p, wire_client(p) as client:
        p.faults.ack_delay = 4
        late = p.people.send("lin", "late").delivery
        assert late is not None
        await client.ack((await client.event())[0])
        await p.clock.advance(5)
        await p.until(lambda: late.pushes[0].late)
        assert late.state == "pending"
        p.faults.clear()
        p.faults.ignore_acks = 1
        ignored = p.people.send("lin", "ignored").delivery
        assert ignored is not None
        await client.ack((await client.event())[0])
        await p.until(lambda: p.faults.ignore_acks == 0)
        await p.clock.advance(3.1)
        assert ignored.rung == 1
