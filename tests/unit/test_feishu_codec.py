from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from larkline.chats.feishu.codec import EVERYBODY, Ourselves, clean, decode_event
from larkline.chats.feishu.post import MAX_DEPTH, MAX_ELEMENTS, post_markdown
from larkline.domain.model import (
    ChatEvent,
    Click,
    Inbound,
    Malformed,
    Mention,
    Place,
    Uninteresting,
    UserId,
)

NOW = 1_790_000_000.0
US = Ourselves("cli_app", UserId("ou_bot"))
HOSTILE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

Json = dict[str, Any]


def body(event: Json | None = None, event_type: str = "im.message.receive_v1") -> Json:
    """A whole event as the platform sends it."""
    return {
        "schema": "2.0",
        "header": {
            "event_id": "e1",
            "token": "",
            "create_time": "1789999990000",
            "event_type": event_type,
            "tenant_key": "t",
            "app_id": "cli_app",
        },
        "event": event if event is not None else message("text", {"text": "hello"}),
    }


def message(kind: str, parsed: object, **more: object) -> Json:
    """The inner part of a message event."""
    return {
        "sender": {
            "sender_id": {"open_id": "ou_anna", "user_id": "anna", "union_id": "on_1"},
            "sender_type": "user",
            "tenant_key": "t",
        },
        "message": {
            "message_id": "om_1",
            "create_time": "1789999991500",
            "chat_id": "oc_1",
            "chat_type": "group",
            "message_type": kind,
            "content": json.dumps(parsed),
            "mentions": [
                {"key": "@_user_1", "id": {"open_id": "ou_bot"}, "name": "bot", "tenant_key": "t"}
            ],
            **more,
        },
    }


def click(value: object) -> Json:
    """The inner part of a click event."""
    return {
        "operator": {"open_id": "ou_anna"},
        "token": "c-1",
        "action": {"tag": "button", "value": value},
        "context": {"open_message_id": "om_1", "open_chat_id": "oc_1"},
    }


def decoded(event: object) -> ChatEvent:
    return decode_event(json.dumps(event).encode(), US, NOW)


def inbound(event: Json) -> Inbound:
    found = decoded(body(event))
    assert isinstance(found, Inbound), found
    return found


def test_a_text_message() -> None:
    """A text becomes an Inbound with place, sender, time and mentions."""
    event = message("text", {"text": "@_user_1 hello"}, thread_id="omt_1", parent_id="om_0")
    assert inbound(event) == Inbound(
        id="om_1",  # type: ignore[arg-type]
        event_id="e1",
        place=Place("cli_app", "oc_1", "omt_1"),
        private=False,
        sender=UserId("ou_anna"),
        kind="text",
        text="@_user_1 hello",
        created_at=1789999991.5,
        mentions=(Mention("@_user_1", UserId("ou_bot"), "bot"),),
        parent_id="om_0",
    )


def test_a_private_chat_is_private() -> None:
    """Only a p2p chat counts as private."""
    assert inbound(message("text", {"text": "x"}, chat_type="p2p")).private
    assert not inbound(message("text", {"text": "x"}, chat_type="topic_group")).private


@pytest.mark.parametrize("kind", ["image", "file", "sticker", "merge_forward", "brand_new"])
def test_kinds_without_text_for_us(kind: str) -> None:
    """Other kinds come with text None, whatever their content is."""
    assert inbound(message(kind, {"image_key": "img"}, content="no json")).text is None


def test_everybody_is_a_mention_but_not_of_the_bot() -> None:
    """`@_all` in a text becomes a mention of everybody."""
    found = inbound(message("text", {"text": "@_all hi"}, mentions=None))
    assert found.mentions == (Mention("@_all", EVERYBODY, "all"),)


def test_broken_mentions_do_not_cost_the_message() -> None:
    """What is no mention is left out."""
    mentions = [None, 7, {"key": 7}, {"key": "@_user_2", "id": "ou_x", "name": "A\nB\x00"}]
    found = inbound(message("text", {"text": "x"}, mentions=mentions))
    assert found.mentions == (Mention("@_user_2", UserId("ou_x"), "A B"),)


@pytest.mark.parametrize("stamp", ["soon", "", None, -5, "99999999999999999999", "1e5", 10**18])
def test_unreasonable_times_are_replaced(stamp: object) -> None:
    """A message without a sensible time gets the event's, then the moment of arrival."""
    event = message("text", {"text": "x"}, create_time=stamp)
    assert inbound(event).created_at == 1789999990.0
    whole = body(event)
    whole["header"]["create_time"] = stamp
    found = decoded(whole)
    assert isinstance(found, Inbound)
    assert found.created_at == NOW


def test_texts_are_cleaned() -> None:
    """Control characters go, line ends become one, lone surrogates become a mark."""
    raw = b'{"text": "a\\u0000b\\u001b[31m\\r\\nc\\ud800 \\ud83d\\ude00 \\u0085"}'
    found = inbound(message("text", {}, content=raw.decode()))
    assert found.text == "ab[31m\nc� \U0001f600 "


@pytest.mark.parametrize("who", ["app", "bot"])
def test_bots_are_not_heard(who: str) -> None:
    """Messages of bots, ours included, have no effect."""
    event = message("text", {"text": "x"})
    event["sender"]["sender_type"] = who
    assert isinstance(decoded(body(event)), Uninteresting)


def test_our_own_messages_are_not_heard() -> None:
    """A message under our own open_id has no effect, whatever its sender type."""
    event = message("text", {"text": "x"})
    event["sender"]["sender_id"]["open_id"] = "ou_bot"
    assert isinstance(decoded(body(event)), Uninteresting)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"act": "stop", "n": [1, {"a": None}]}, {"act": "stop", "n": [1, {"a": None}]}),
        ('{"act": "stop"}', {"act": "stop"}),
        ("plain", "plain"),
        ("[1]", "[1]"),
        ("7", "7"),
        (None, ""),
        ("x\x00y", "xy"),
        ({"a\ud800": "b\x1b"}, {"a�": "b"}),
    ],
)
def test_clicks(value: object, expected: object) -> None:
    """A click's value is an object, also one in a string, or a string."""
    assert decoded(body(click(value), "card.action.trigger")) == Click(
        event_id="e1",
        sender=UserId("ou_anna"),
        chat_id="oc_1",
        message_id="om_1",  # type: ignore[arg-type]
        value=expected,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("value", [7, True, ["a"], {"a": float("inf")}])
def test_clicks_with_values_of_a_wrong_type(value: object) -> None:
    """A value that is neither object nor string is malformed."""
    raw = json.dumps(body(click(value), "card.action.trigger")).replace("Infinity", "1e999")
    assert isinstance(decode_event(raw.encode(), US, NOW), Malformed)


@pytest.mark.parametrize(
    "event",
    [
        body({"user_id": "x"}, "im.message.message_read_v1"),
        body({}, "brand.new_v9"),
        {"uuid": "u", "type": "event_callback", "event": {"type": "message", "text": "x"}},
        {"type": "url_verification", "challenge": "x"},
    ],
)
def test_other_events_are_uninteresting(event: Json) -> None:
    """Unknown types and the old schema need nothing."""
    assert isinstance(decoded(event), Uninteresting)


DEEP = b"[" * 100_000
DEEP_VALUE = json.dumps(body(click("X"), "card.action.trigger")).replace(
    '"X"', '{"a":' * 500 + "1" + "}" * 500
)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        DEEP,
        DEEP_VALUE.encode(),
        b'{"header": {"event_type": "im.message.receive_v1", "event_id": NaN}}',
        b'{"header": []}',
        json.dumps(body()).replace('"tenant_key": "t"', '"tenant_key": NaN').encode(),
        b'{"a": ' + b"9" * 5000 + b"}",
        json.dumps(body(message("text", {"text": 7}))).encode(),
        json.dumps(body(message("text", ["x"]))).encode(),
        json.dumps(body(message("post", {}, content="{"))).encode(),
        json.dumps(body(message("text", {"text": "x"}, message_id="../../etc"))).encode(),
        json.dumps(body(message("text", {"text": "x"}, chat_id="a" * 999))).encode(),
        json.dumps(body(message("text", {"text": "x"}, message_id=""))).encode(),
    ],
)
def test_malformed_bodies(raw: bytes) -> None:
    """What cannot be understood is kept as it came, with a reason and an id for dedupe."""
    found = decode_event(raw, US, NOW)
    assert isinstance(found, Malformed)
    assert found.body == raw
    assert found.reason
    assert found.event_id
    assert decode_event(raw, US, NOW + 9) == found


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=6)
    | st.sampled_from(["post", "text", "image", "p2p", "app", "@_all", '{"text":"\\ud800"}']),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
SAMPLES = st.sampled_from(
    [
        body(),
        body(message("post", {"title": "t", "content": [[{"tag": "text", "text": "x"}]]})),
        body(click({"a": "b"}), "card.action.trigger"),
    ]
)


def _paths(value: object, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at] if at else []
    items = value.items() if isinstance(value, dict) else []
    for key, inner in items:
        found += _paths(inner, (*at, key))
    return found


@given(SAMPLES, st.data())
def test_damaged_events_are_never_an_exception(sample: Json, data: st.DataObject) -> None:
    """Any part of an event replaced by anything gives a value, clean and with harmless ids."""
    event = copy.deepcopy(sample)
    for _ in range(data.draw(st.integers(1, 2))):
        *parents, last = data.draw(st.sampled_from(_paths(event)))
        holder: Any = event
        for key in parents:
            holder = holder[key]
        holder[last] = data.draw(JSON)
    found = decoded(event)
    if isinstance(found, Inbound):
        for text in (found.text or "", found.kind, *(each.name for each in found.mentions)):
            assert not HOSTILE.search(text)
        ids = (found.id, found.place.chat_id, found.place.thread_id, found.sender, found.event_id)
        assert all(re.fullmatch(r"[\w.:=+@-]*", each, re.ASCII) for each in ids)
        assert 0 < found.created_at <= NOW + 86400
        found.prompt(None).encode()
    elif isinstance(found, Click):
        json.dumps(found.value, ensure_ascii=False, allow_nan=False).encode()
    elif isinstance(found, Malformed):
        assert found.reason.isprintable()


@given(st.binary(max_size=200))
def test_any_bytes_are_never_an_exception(raw: bytes) -> None:
    """Random bytes give a value."""
    decode_event(raw, US, NOW)


@given(JSON)
def test_any_post_is_never_an_exception(value: object) -> None:
    """Whatever stands in a post, there is a text."""
    element = value if isinstance(value, dict) else {"tag": "text", "text": value}
    clean(post_markdown({"title": value, "content": [[element, value], value]}))


def test_a_post_becomes_markdown() -> None:
    """Title, links, people, code, lists, pictures and styles come out as Markdown."""
    content = [
        [
            {"tag": "text", "text": "see ", "style": []},
            {"tag": "a", "href": "https://x.test/a", "text": "this"},
            {"tag": "text", "text": " bold ", "style": ["bold", "italic"]},
            {"tag": "at", "user_id": "@_user_1", "user_name": "Anna"},
        ],
        [{"tag": "code_block", "language": "PYTHON", "text": "print('```')\n"}],
        [{"tag": "ul", "items": [[{"tag": "text", "text": "one"}], {"tag": "text", "text": "2"}]}],
        [{"tag": "img", "image_key": "img_1"}, {"tag": "emotion", "emoji_type": "OK"}],
        [{"tag": "media", "file_key": "f"}, {"tag": "hr"}],
        [{"tag": "md", "text": "**md**"}, {"tag": "wondrous", "text": "kept"}],
        [{"tag": "at", "user_id": "all"}, {"tag": "at", "user_id": "ou_9", "user_name": "Bo"}],
    ]
    found = inbound(message("post", {"title": "Title", "content": content}))
    assert found.text == (
        "# Title\n"
        "see [this](https://x.test/a) ***bold*** @_user_1\n"
        "\n````python\nprint('```')\n````\n\n"
        "\n- one\n- 2\n\n"
        "[image]:OK:\n"
        "[media]\n---\n\n"
        "**md**kept\n"
        "@_all@Bo"
    )
    assert Mention("@_all", EVERYBODY, "all") in found.mentions


def test_a_post_in_a_language_is_found() -> None:
    """A post that is wrapped in its language is read too."""
    wrapped = {"zh_cn": {"title": "", "content": [[{"tag": "text", "text": "x"}]]}}
    assert post_markdown(wrapped) == "x"


def test_huge_and_deep_posts_are_bounded() -> None:
    """Elements over the bound are left out; nesting ends."""
    many = {"content": [[{"tag": "text", "text": "x"}] * (MAX_ELEMENTS + 9)]}
    assert post_markdown(many) == "x" * MAX_ELEMENTS
    deep: Json = {"tag": "text", "text": "deep"}
    for _ in range(MAX_DEPTH + 1):
        deep = {"tag": "box", "elements": [deep]}
    assert post_markdown({"content": [[deep]]}) == ""
    listed: Json = {"tag": "text", "text": "deep"}
    for _ in range(300):
        listed = {"tag": "ul", "items": [listed]}
    assert "deep" not in post_markdown({"content": [[listed]]})
