"""The simulator driven from outside, through its control API."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from sim_client import Json, rest_client, wire_client

from larkline.sim.platform import Platform


async def act(session: aiohttp.ClientSession, platform: Platform, what: str, **body: Any) -> Json:
    """One action that has to succeed."""
    async with session.post(f"{platform.url}/_sim/{what}", json=body) as answer:
        assert answer.status == 200, await answer.text()
        found: Json = await answer.json()
        return found


async def read(session: aiohttp.ClientSession, platform: Platform, what: str) -> Json:
    """One reading."""
    async with session.get(f"{platform.url}/_sim/{what}") as answer:
        assert answer.status == 200
        found: Json = await answer.json()
        return found


async def test_another_process_can_play_a_user_and_switch_faults() -> None:
    """Send, click, recall, faults, clock, connections and figures, all over HTTP."""
    async with Platform() as p, rest_client(p) as client, wire_client(p) as wire:
        session = client.session
        stats = await read(session, p, "stats")
        assert stats["app_id"] == p.app.app_id
        assert stats["open_ids"]["lin"] == p.open_id(p.users[0])
        group = stats["group"]
        sent = await act(session, p, "send", user="anna", chat=group, text="hi", mention=True)
        frame, event = await wire.event()
        assert event["event"]["message"]["message_id"] == sent["message"]
        assert event["event"]["message"]["mentions"][0]["id"]["open_id"] == p.app.open_id
        await wire.ack(frame)
        post = {"title": "", "content": [[{"tag": "text", "text": "x"}]]}
        await act(session, p, "raw", user="lin", msg_type="post", content=post)
        await wire.ack((await wire.event())[0])
        await act(session, p, "recall", message=sent["message"])
        frame, event = await wire.event()
        assert event["header"]["event_type"] == "im.message.recalled_v1"
        await wire.ack(frame)

        await act(
            session,
            p,
            "faults",
            mute_pongs=True,
            rest=[{"api": "im.*", "kind": "refuse", "code": 230020, "times": 1}],
        )
        assert p.faults.mute_pongs
        chat = stats["p2p"]["lin"]
        path = f"/open-apis/im/v1/messages?container_id_type=chat&container_id={chat}"
        assert await client.code("GET", path) == 230020
        assert [c["code"] for c in (await read(session, p, "refusals"))["calls"]] == [230020]
        await act(session, p, "faults", clear=True)
        assert not p.faults.mute_pongs

        before = p.clock.now()
        await act(session, p, "advance", seconds=3600)
        assert p.clock.now() - before >= 3600
        await act(session, p, "client-config", ping_interval=9)
        assert p.connections.config.ping_interval == 9
        deliveries = (await read(session, p, "deliveries"))["deliveries"]
        assert [d["state"] for d in deliveries] == ["acked"] * 3
        assert (await act(session, p, "connections", do="drop"))["count"] == 1


async def test_a_click_from_outside_waits_for_the_answer() -> None:
    """The toast is in the control API's answer."""
    async with Platform() as p, rest_client(p) as client, wire_client(p) as wire:
        chat = p.p2p(p.users[0])
        message = p.world.post(chat, "app", p.app.app_id, "interactive", "{}")
        click = asyncio.create_task(
            act(client.session, p, "click", user="lin", message=message.message_id, value="v")
        )
        frame, _ = await wire.event()
        await wire.ack(frame, answer={"toast": {"type": "info", "content": "ok"}})
        assert (await click)["toast"] == {"type": "info", "content": "ok"}


async def test_mistakes_are_named_and_strangers_refused() -> None:
    """A wrong id or field is 400 with its name; a foreign host or content type is 403."""
    async with Platform() as p, aiohttp.ClientSession() as session:
        for what, body, named in (
            ("send", {"user": "nobody", "text": "x"}, "nobody"),
            ("faults", {"deef": True}, "deef"),
            ("faults", {"rest": [{"api": "*", "kind": "explode"}]}, "explode"),
            ("click", {"user": "lin", "message": "om_x"}, "om_x"),
            ("advance", {}, "seconds"),
        ):
            async with session.post(f"{p.url}/_sim/{what}", json=body) as answer:
                assert answer.status == 400
                assert named in (await answer.json())["error"]
        headers = {"Host": "evil.example"}
        async with session.get(f"{p.url}/_sim/stats", headers=headers) as answer:
            assert answer.status == 403
        url = f"{p.url}/_sim/revoke-tokens"
        async with session.post(url, json={}, headers=headers) as answer:
            assert answer.status == 403
        async with session.post(url, data="{}") as answer:
            assert answer.status == 403
