"""The simulator's message APIs: codes, idempotency, budgets, threads, faults."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from sim_client import Json, RestClient, rest_client

from larkline.sim.platform import Platform

CARD: Json = {
    "schema": "2.0",
    "config": {"update_multi": True},
    "body": {"elements": [{"tag": "markdown", "content": "hi"}]},
}
CREATE = "/open-apis/im/v1/messages?receive_id_type=chat_id"


def patch_body(card: Json) -> Json:
    """A PATCH's body."""
    return {"content": json.dumps(card)}


async def send_card(client: RestClient, chat_id: str, card: Json) -> Json:
    """Send a card to a chat."""
    body = {"receive_id": chat_id, "msg_type": "interactive", "content": json.dumps(card)}
    return await client.ok("POST", CREATE, body)


async def test_token_errors() -> None:
    """Wrong secret 10014 and bad body 10003 with HTTP 200; calls with bad tokens 9999166x."""
    async with Platform() as p, rest_client(p) as client:
        path = "/open-apis/auth/v3/tenant_access_token/internal"
        status, _, body = await client.call("POST", path, {"app_id": "x", "app_secret": "y"})
        assert (status, body["code"]) == (200, 10014)
        assert await client.code("POST", path, {"app_id": 3}) == 10003
        bot = "/open-apis/bot/v3/info"
        for token, code in (("", 99991661), ("nonsense", 99991671), ("t-g00", 99991663)):
            status, _, body = await client.call("GET", bot, token=token)
            assert (status, body["code"]) == (400, code)
        found = await client.ok("GET", bot)
        assert found["bot"]["open_id"] == p.app.open_id
        p.rest.revoke_tokens()
        assert await client.code("GET", bot) == 99991663


async def test_token_is_renewed_only_in_its_last_half_hour() -> None:
    """The same token until 30 minutes before its end, then a new one; both valid meanwhile."""
    async with Platform() as p, rest_client(p) as client:
        first = client.token
        await p.clock.advance(5000)
        await client.login()
        assert client.token == first
        await p.clock.advance(600)
        await client.login()
        assert client.token != first
        assert (await client.call("GET", "/open-apis/bot/v3/info", token=first))[2]["code"] == 0
        await p.clock.advance(1700)
        stale = await client.call("GET", "/open-apis/bot/v3/info", token=first)
        assert stale[2]["code"] == 99991663


async def test_text_arrives_and_reads_back() -> None:
    """A created text is in the chat, in the list and by its id."""
    async with Platform() as p, rest_client(p) as client:
        chat = p.p2p(p.users[0])
        sent = await client.text(chat.chat_id, "hello")
        assert [p.text(m) for m in p.replies(chat)] == ["hello"]
        one = await client.ok("GET", f"/open-apis/im/v1/messages/{sent['message_id']}")
        assert json.loads(one["items"][0]["body"]["content"]) == {"text": "hello"}
        listed = await client.ok(
            "GET",
            f"/open-apis/im/v1/messages?container_id_type=chat&container_id={chat.chat_id}",
        )
        assert [m["message_id"] for m in listed["items"]] == [sent["message_id"]]


async def test_cards_read_back_in_full_only_when_asked_for() -> None:
    """A card read by default says to upgrade; with the right parameter it is the card."""
    async with Platform() as p, rest_client(p) as client:
        sent = await send_card(client, p.p2p(p.users[0]).chat_id, CARD)
        path = f"/open-apis/im/v1/messages/{sent['message_id']}"
        plain = await client.ok("GET", path)
        assert "请升级至最新版本客户端" in plain["items"][0]["body"]["content"]
        full = await client.ok("GET", f"{path}?card_msg_content_type=user_card_content")
        assert json.loads(full["items"][0]["body"]["content"]) == CARD


async def test_same_uuid_sends_once_within_an_hour() -> None:
    """The second call answers with the first message; after an hour it sends again."""
    async with Platform() as p, rest_client(p) as client:
        chat = p.p2p(p.users[0])
        first = await client.text(chat.chat_id, "one", uuid="u1")
        again = await client.text(chat.chat_id, "one", uuid="u1")
        assert first["message_id"] == again["message_id"]
        await p.clock.advance(3601)
        later = await client.text(chat.chat_id, "one", uuid="u1")
        assert later["message_id"] != first["message_id"]
        assert len(p.replies(chat)) == 2


async def test_replies_know_root_parent_and_thread() -> None:
    """A reply to a root has parent == root; a reply in a thread opens it and stays in it."""
    async with Platform() as p, rest_client(p) as client:
        root = p.people.send("lin", "question", chat=p.group, mention=True).message
        body = {"msg_type": "text", "content": '{"text":"answer"}'}
        path = f"/open-apis/im/v1/messages/{root.message_id}/reply"
        plain = await client.ok("POST", path, body)
        assert plain["parent_id"] == plain["root_id"] == root.message_id
        assert "thread_id" not in plain
        inside = await client.ok("POST", path, {**body, "reply_in_thread": True})
        assert inside["thread_id"] == root.thread_id != ""
        more = p.people.send("anna", "and?", chat=p.group, reply_to=inside["message_id"])
        assert more.message.thread_id == root.thread_id
        assert more.message.root_id == root.message_id


async def test_refusals_of_senders() -> None:
    """Each mistake has its code."""
    async with Platform() as p, rest_client(p) as client:
        chat = p.p2p(p.users[0]).chat_id
        other = p.add_group("without the bot", p.users, [])

        async def refused(**fields: object) -> int:
            body: Json = {"receive_id": chat, "msg_type": "text", "content": '{"text":"x"}'}
            return await client.code("POST", CREATE, {**body, **fields})

        assert await refused(receive_id=other.chat_id) == 230002
        assert await refused(receive_id="oc_nowhere") == 230001
        assert await refused(content=None) == 99992402
        assert await refused(content={"text": "x"}) == 9499
        assert await refused(content="no json") == 230001
        assert await refused(content='{"text":""}') == 230001
        assert await refused(content=json.dumps({"text": "x" * 160_000})) == 230025
        assert await refused(uuid="u" * 51) == 99992402
        assert await refused(msg_type="interactive", content="{") == 230099
        big = json.dumps({**CARD, "pad": "x" * 31_000})
        assert await refused(msg_type="interactive", content=big) == 230025
        gone = "/open-apis/im/v1/messages/om_x/reply"
        assert await client.code("POST", gone, {"msg_type": "text", "content": "{}"}) == 99992354
        message = p.people.send("lin", "x").message
        p.people.recall(message)
        path = f"/open-apis/im/v1/messages/{message.message_id}/reply"
        body = {"msg_type": "text", "content": '{"text":"x"}'}
        assert await client.code("POST", path, body) == 230011
        p.app.scopes.clear()
        assert await refused() == 99991672


async def test_edits_and_patches() -> None:
    """PUT edits text 20 times and no card; PATCH changes cards with update_multi only."""
    async with Platform() as p, rest_client(p) as client:
        chat = p.p2p(p.users[0]).chat_id
        text = (await client.text(chat, "v0"))["message_id"]
        path = f"/open-apis/im/v1/messages/{text}"
        edit = {"msg_type": "text", "content": '{"text":"v"}'}
        for _ in range(20):
            await client.ok("PUT", path, edit)
        assert await client.code("PUT", path, edit) == 230072
        card = (await send_card(client, chat, CARD))["message_id"]
        path = f"/open-apis/im/v1/messages/{card}"
        assert await client.code("PUT", path, edit) == 230001
        assert await client.code("PATCH", path, patch_body({**CARD, "config": {}})) == 230099
        new = json.loads(json.dumps(CARD).replace("hi", "there"))
        await client.ok("PATCH", path, patch_body(new))
        assert p.text(p.world.messages[card]) == "there"
        await p.clock.advance(15 * 86400)
        await client.login()
        assert await client.code("PATCH", path, patch_body(new)) == 230031
        await client.ok("DELETE", path)
        assert await client.code("DELETE", path) == 230011


async def test_reactions() -> None:
    """A reaction comes and goes; a bad emoji is 231001, a recalled message 231003."""
    async with Platform() as p, rest_client(p) as client:
        message = p.people.send("lin", "x").message
        path = f"/open-apis/im/v1/messages/{message.message_id}/reactions"
        typing = {"reaction_type": {"emoji_type": "Typing"}}
        reaction = (await client.ok("POST", path, typing))["reaction_id"]
        assert [emoji for _, emoji in message.reactions.values()] == ["Typing"]
        await client.ok("DELETE", f"{path}/{reaction}")
        assert message.reactions == {}
        assert await client.code("POST", path, {"reaction_type": {"emoji_type": "?"}}) == 231001
        p.people.recall(message)
        assert await client.code("POST", path, typing) == 231003


async def test_chat_budget_is_shared_and_named_230020() -> None:
    """The sixth message into a chat within a second is refused; a second later it passes."""
    async with Platform() as p, rest_client(p) as client:
        chat = p.p2p(p.users[0]).chat_id
        for n in range(5):
            await client.text(chat, str(n))
        body = {"receive_id": chat, "msg_type": "text", "content": '{"text":"x"}'}
        assert await client.code("POST", CREATE, body) == 230020
        await p.clock.advance(1.0)
        assert await client.code("POST", CREATE, body) == 0
        assert [call.code for call in p.refusals()] == [230020]


async def test_api_budget_answers_429_with_the_seconds_to_wait() -> None:
    """The 51st call of one API within a second gets 99991400 and x-ogw-ratelimit-reset."""
    async with Platform() as p, rest_client(p) as client:
        path = "/open-apis/bot/v3/info"
        answers = await asyncio.gather(*(client.call("GET", path) for _ in range(60)))
        refused = [(s, h) for s, h, body in answers if body["code"] == 99991400]
        assert len(refused) == 10
        status, headers = refused[0]
        assert status == 429
        assert headers["x-ogw-ratelimit-reset"] == "1"


async def test_list_pages_and_starts_where_asked() -> None:
    """Pages of `page_size`, oldest first, from `start_time` on."""
    async with Platform() as p, rest_client(p) as client:
        chat = p.p2p(p.users[0])
        ids = []
        for n in range(7):
            ids.append(p.people.send("lin", str(n)).message.message_id)
            await p.clock.advance(10)
        start = int(p.world.messages[ids[2]].created)
        base = f"/open-apis/im/v1/messages?container_id_type=chat&container_id={chat.chat_id}"
        got, token = [], ""
        while True:
            page = await client.ok(
                "GET", f"{base}&page_size=2&start_time={start}&page_token={token}"
            )
            got += [m["message_id"] for m in page["items"]]
            token = page["page_token"]
            if not page["has_more"]:
                break
        assert got == ids[2:]


async def test_lost_answer_was_applied() -> None:
    """The connection is cut, but the message stands; the same uuid finds it."""
    async with Platform() as p, rest_client(p) as client:
        chat = p.p2p(p.users[0])
        p.faults.lose_answer("im.message.create")
        with pytest.raises(aiohttp.ClientError):
            await client.text(chat.chat_id, "once", uuid="u")
        assert len(p.replies(chat)) == 1
        again = await client.text(chat.chat_id, "once", uuid="u")
        assert again["message_id"] == p.replies(chat)[0].message_id
        assert [call.code for call in p.calls if call.api == "im.message.create"] == [-1, 0]


async def test_faults_of_the_gateway() -> None:
    """429 with a wait, 502 without JSON, an HTML page with 200, a delay: as often as told."""
    async with Platform() as p, rest_client(p) as client:
        chat = p.p2p(p.users[0])
        p.faults.rate_limit("im.message.*", reset=3, times=2)
        body = {"receive_id": chat.chat_id, "msg_type": "text", "content": '{"text":"x"}'}
        for _ in range(2):
            status, headers, answer = await client.call("POST", CREATE, body)
            assert (status, answer["code"]) == (429, 99991400)
            assert headers["x-ogw-ratelimit-reset"] == "3"
        for switch in (p.faults.server_error, p.faults.garbage):
            switch("im.message.create")
            with pytest.raises(aiohttp.ContentTypeError):
                await client.call("POST", CREATE, body)
        p.faults.refuse_cards(11310)
        status, _, answer = await client.call(
            "POST", CREATE, {**body, "msg_type": "interactive", "content": json.dumps(CARD)}
        )
        assert answer["code"] == 230099
        assert "ErrCode: 11310" in answer["msg"]
        p.faults.rest_latency = 0.1
        await client.text(chat.chat_id, "late")
        assert p.calls[-1].seconds >= 0.1


async def test_scopes_show_their_grant_state() -> None:
    """Granted scopes are 1, those only asked for 2."""
    async with Platform() as p, rest_client(p) as client:
        p.app.pending_scopes.add("contact:user.base:readonly")
        found = await client.ok("GET", "/open-apis/application/v6/scopes")
        states = {s["scope_name"]: s["grant_status"] for s in found["scopes"]}
        assert states["cardkit:card:write"] == 1
        assert states["contact:user.base:readonly"] == 2


async def test_a_users_file_can_be_fetched() -> None:
    """The resource of a file message comes byte by byte; a key of another message does not."""
    async with Platform() as p, rest_client(p) as client:
        key = p.people.upload(b"\x00payload")
        content = {"file_key": key, "file_name": "a.bin"}
        message = p.people.send_raw("lin", "file", content).message
        path = f"/open-apis/im/v1/messages/{message.message_id}/resources/"
        headers = {"Authorization": f"Bearer {client.token}"}
        url = f"{p.url}{path}{key}?type=file"
        async with client.session.get(url, headers=headers) as answer:
            assert await answer.read() == b"\x00payload"
        other = p.people.upload(b"not in this message")
        assert await client.code("GET", f"{path}{other}?type=file") == 234001
