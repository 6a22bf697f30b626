"""The simulator's CardKit: sequence, streaming mode, elements, limits, idempotency."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from sim_client import Json, RestClient, rest_client

from larkline.sim.platform import Platform

CARDS = "/open-apis/cardkit/v1/cards"


def card_of(*elements: Json, streaming: bool = True, **config: object) -> Json:
    """A card like larkline's."""
    first = {"tag": "markdown", "element_id": "answer", "content": "..."}
    return {
        "schema": "2.0",
        "config": {"streaming_mode": streaming, "update_multi": True, **config},
        "body": {"elements": [first, *elements]},
    }


async def create(client: RestClient, card: Json) -> str:
    """A new entity."""
    body = {"type": "card_json", "data": json.dumps(card)}
    card_id: str = (await client.ok("POST", CARDS, body))["card_id"]
    return card_id


async def stream(client: RestClient, card_id: str, sequence: Any, text: Any, **more: Any) -> int:
    """A content call; its code."""
    path = f"{CARDS}/{card_id}/elements/answer/content"
    return await client.code("PUT", path, {"content": text, "sequence": sequence, **more})


async def settings(client: RestClient, card_id: str, sequence: int, **config: object) -> int:
    """A settings call; its code."""
    text = json.dumps({"config": config})
    return await client.code(
        "PATCH", f"{CARDS}/{card_id}/settings", {"settings": text, "sequence": sequence}
    )


async def show(p: Platform, client: RestClient, card_id: str) -> Json:
    """Send the entity to the first user."""
    content = json.dumps({"type": "card", "data": {"card_id": card_id}})
    body = {
        "receive_id": p.p2p(p.users[0]).chat_id,
        "msg_type": "interactive",
        "content": content,
    }
    return (await client.call("POST", "/open-apis/im/v1/messages?receive_id_type=chat_id", body))[2]


async def test_card_streams_into_the_chat_and_keeps_its_history() -> None:
    """Created, sent, streamed, closed: the reader sees the last text, the history all of them."""
    async with Platform() as p, rest_client(p) as client:
        card_id = await create(client, card_of())
        assert (await show(p, client, card_id))["code"] == 0
        for sequence, text in enumerate(("Hel", "Hello", "Hello, world"), 1):
            assert await stream(client, card_id, sequence, text) == 0
        assert await settings(client, card_id, 4, streaming_mode=False) == 0
        [message] = p.replies(p.p2p(p.users[0]))
        assert p.text(message) == "Hello, world"
        card = p.card(message)
        assert card is not None
        assert [r.via for r in card.revisions] == ["create", *["content"] * 3, "settings"]
        assert card.revisions[-1].streaming is False


async def test_sequence_grows_strictly_across_all_calls() -> None:
    """Equal, smaller and zero are 300317; content, settings and update share one counter."""
    async with Platform() as p, rest_client(p) as client:
        card_id = await create(client, card_of())
        assert await stream(client, card_id, 0, "a") == 300317
        assert await stream(client, card_id, 5, "a") == 0
        assert await stream(client, card_id, 5, "b") == 300317
        assert await settings(client, card_id, 4, summary={"content": "s"}) == 300317
        assert await settings(client, card_id, 6, summary={"content": "s"}) == 0
        card = {"type": "card_json", "data": json.dumps(card_of(streaming=False))}
        path = f"{CARDS}/{card_id}"
        assert await client.code("PUT", path, {"card": card, "sequence": 6}) == 300317
        assert await client.code("PUT", path, {"card": card, "sequence": 7}) == 0
        assert await stream(client, card_id, "8", "a") == 9499


async def test_lost_call_was_applied_and_the_next_number_works() -> None:
    """After an unsure call, the same sequence is refused and the next one passes.

    A PATCH, because aiohttp's client itself repeats a PUT whose connection was cut.
    """
    async with Platform() as p, rest_client(p) as client:
        card_id = await create(client, card_of())
        p.faults.lose_answer("cardkit.card.settings")
        with pytest.raises(aiohttp.ClientError):
            await settings(client, card_id, 1, streaming_mode=False)
        assert not p.cards.all[card_id].streaming
        assert await settings(client, card_id, 1, streaming_mode=True) == 300317
        assert await settings(client, card_id, 2, streaming_mode=True) == 0


async def test_put_repeated_by_the_client_library_is_refused_though_applied() -> None:
    """What a bridge on aiohttp sees when a content call's answer is lost: 300317, text shown."""
    async with Platform() as p, rest_client(p) as client:
        card_id = await create(client, card_of())
        p.faults.lose_answer("cardkit.element.content")
        assert await stream(client, card_id, 1, "text") == 300317
        assert p.cards.all[card_id].text() == "text"


async def test_same_uuid_is_applied_once() -> None:
    """A repeated uuid is answered as done and changes nothing; the variant refuses it."""
    async with Platform() as p, rest_client(p) as client:
        card_id = await create(client, card_of())
        assert await stream(client, card_id, 1, "first", uuid="u") == 0
        assert await stream(client, card_id, 1, "second", uuid="u") == 0
        assert p.cards.all[card_id].text() == "first"
        p.variants.cardkit_uuid = "conflict"
        assert await stream(client, card_id, 2, "third", uuid="u") == 200770


async def test_streaming_closes_itself_after_ten_minutes() -> None:
    """Then content gives 200850 once and 300309 after; update works and settings reopen it."""
    async with Platform() as p, rest_client(p) as client:
        card_id = await create(client, card_of())
        await p.clock.advance(599)
        assert await stream(client, card_id, 1, "in time") == 0
        await p.clock.advance(1.1)
        assert [await stream(client, card_id, n, "late") for n in (2, 3, 4)] == [
            200850,
            300309,
            300309,
        ]
        card = {"type": "card_json", "data": json.dumps(card_of(streaming=False))}
        path = f"{CARDS}/{card_id}"
        assert await client.code("PUT", path, {"card": card, "sequence": 5}) == 0
        assert await settings(client, card_id, 6, streaming_mode=True) == 0
        assert await stream(client, card_id, 7, "again") == 0


async def test_refused_content() -> None:
    """Empty text, unknown element, element without text, card that never streamed."""
    async with Platform() as p, rest_client(p) as client:
        card_id = await create(client, card_of({"tag": "hr", "element_id": "line"}))
        assert await stream(client, card_id, 1, "") == 99992402
        for element, code in (("nobody", 300313), ("line", 300315)):
            path = f"{CARDS}/{card_id}/elements/{element}/content"
            assert await client.code("PUT", path, {"content": "x", "sequence": 1}) == code
        still = await create(client, card_of(streaming=False))
        assert await stream(client, still, 1, "x") == 300309
        assert await stream(client, "1", 1, "x") == 300301
        tables = "\n\n".join(["|a|b|\n|-|-|\n|1|2|"] * 6)
        assert await stream(client, card_id, 1, tables) == 11310
        fenced = f"```\n{tables}\n```"
        assert await stream(client, card_id, 1, fenced) == 0


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"schema": "1.0"}, 200861),
        ({"body": {"elements": [{"tag": "note"}]}}, 200861),
        ({"body": {}}, 200621),
        ({"body": {"elements": [{"tag": "hr", "element_id": "1x"}]}}, 300301),
        ({"body": {"elements": [{"tag": "hr", "element_id": "a"}] * 2}}, 300301),
        ({"body": {"elements": [{"tag": "hr"}] * 201}}, 300305),
        ({"config": {"update_multi": False}}, 200610),
        ({"pad": "x" * 31_000}, 230025),
    ],
)
async def test_cards_that_are_no_good(change: Json, code: int) -> None:
    """Each fault of a card has its number, directly or wrapped in 230099 by variant."""
    async with Platform() as p, rest_client(p) as client:
        body = {"type": "card_json", "data": json.dumps({**card_of(), **change})}
        assert await client.code("POST", CARDS, body) == code
        p.variants.cardkit_refusal = "wrapped"
        p.variants.cardkit_error_status = 200
        status, _, answer = await client.call("POST", CARDS, body)
        assert status == 200
        assert answer["code"] in (230099, 230025, 200610)


async def test_entity_is_sent_once_and_found_by_its_message() -> None:
    """A second send is refused; id_convert names the entity; others' entities are refused."""
    async with Platform() as p, rest_client(p) as client:
        card_id = await create(client, card_of())
        first = await show(p, client, card_id)
        assert (await show(p, client, card_id))["code"] == 230099
        found = await client.ok(
            "POST", f"{CARDS}/id_convert", {"message_id": first["data"]["message_id"]}
        )
        assert found["card_id"] == card_id
        p.cards.all[card_id].app_id = "cli_other"
        assert await stream(client, card_id, 1, "x") == 300311


async def test_elements_come_change_and_go() -> None:
    """Add before and after, replace, merge, delete, and several at once, all or nothing."""
    async with Platform() as p, rest_client(p) as client:
        card_id = await create(client, card_of())
        base = f"{CARDS}/{card_id}/elements"

        def ids() -> list[str]:
            return [e["element_id"] for e in p.cards.all[card_id].body["body"]["elements"]]

        def text(name: str) -> str:
            return json.dumps({"tag": "markdown", "element_id": name, "content": name})

        add = {"type": "insert_before", "target_element_id": "answer", "sequence": 1}
        await client.ok("POST", base, {**add, "elements": f"[{text('top')}]"})
        await client.ok(
            "POST", base, {"type": "append", "sequence": 2, "elements": f"[{text('z')}]"}
        )
        assert ids() == ["top", "answer", "z"]
        await client.ok("PUT", f"{base}/z", {"element": text("end"), "sequence": 3})
        partial = json.dumps({"content": "merged"})
        await client.ok("PATCH", f"{base}/end", {"partial_element": partial, "sequence": 4})
        await client.ok("DELETE", f"{base}/top", {"sequence": 5})
        assert ids() == ["answer", "end"]
        assert p.cards.all[card_id].text() == "...\nmerged"
        actions: list[Json] = [
            {"action": "delete_elements", "params": {"element_ids": ["end"]}},
            {"action": "delete_elements", "params": {"element_ids": ["nobody"]}},
        ]
        batch = {"sequence": 6, "actions": json.dumps(actions)}
        path = f"{CARDS}/{card_id}/batch_update"
        assert await client.code("POST", path, batch) == 300313
        assert ids() == ["answer", "end"]
        batch["actions"] = json.dumps(actions[:1])
        assert await client.code("POST", path, batch) == 0
        assert ids() == ["answer"]


async def test_card_budget() -> None:
    """The eleventh operation on a card within a second is refused."""
    async with Platform() as p, rest_client(p) as client:
        card_id = await create(client, card_of())
        codes = [await stream(client, card_id, n, str(n)) for n in range(1, 12)]
        assert codes == [0] * 10 + [99991400]
