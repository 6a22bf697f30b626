from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from feishu_kit import settings
from structlog.testing import capture_logs

from larkline.chats.feishu.api import NO_CODE
from larkline.chats.feishu.chat import MAX_TEXT_BYTES, FeishuChat
from larkline.domain.errors import (
    ChatGone,
    ContentRefused,
    LarklineError,
    Permanent,
    SequenceStale,
    StreamClosed,
    TargetGone,
    Transient,
)
from larkline.domain.model import CardView, MessageId, Place, Target
from larkline.sim.platform import APP_SECRET, Platform
from larkline.sim.world import Chat

VIEW = CardView("text", "status", True, "summary")
OBSERVED: list[tuple[str, int, float]] = []


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    async with Platform() as started:
        yield started


@pytest.fixture
async def chat(platform: Platform) -> AsyncIterator[FeishuChat]:
    OBSERVED.clear()
    observe = lambda api, code, seconds: OBSERVED.append((api, code, seconds))  # noqa: E731
    async with FeishuChat(settings(platform.domain), observe=observe) as entered:
        yield entered


def where(platform: Platform, chat: Chat | None = None, reply_to: str = "") -> Target:
    """The first user's private chat, or `chat`."""
    chat_id = (chat or platform.p2p(platform.users[0])).chat_id
    return Target(Place(platform.app.app_id, chat_id), reply_to)


def texts(platform: Platform) -> list[str]:
    """What the bot wrote into the first user's private chat."""
    return [platform.text(each) for each in platform.replies(platform.p2p(platform.users[0]))]


def tokens_fetched(platform: Platform) -> int:
    return sum(call.api == "auth.token" for call in platform.calls)


async def test_one_token_serves_all_calls(platform: Platform, chat: FeishuChat) -> None:
    """Calls at the same moment fetch one token, and later ones none."""
    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(chat.create_card(VIEW))
    await chat.create_card(VIEW)
    assert tokens_fetched(platform) == 1


@pytest.mark.parametrize("status", [200, 400, 401])
async def test_a_token_revoked_early_is_replaced_once(
    platform: Platform, chat: FeishuChat, status: int
) -> None:
    """Many calls refused with an old token succeed with one new one, whatever the HTTP status."""
    platform.variants.auth_error_status = status
    await chat.create_card(VIEW)
    platform.rest.revoke_tokens()
    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(chat.create_card(VIEW))
    assert tokens_fetched(platform) == 2


@pytest.mark.parametrize("code", [99991661, 99991663, 99991671])
async def test_a_token_refused_again_is_no_loss(
    platform: Platform, chat: FeishuChat, code: int
) -> None:
    """A token that is refused twice ends in an error that lets the answer be tried again."""
    platform.faults.refuse("im.message.create", code, times=2)
    with pytest.raises(Transient) as caught:
        await chat.send_text(where(platform), "x", "k")
    assert not caught.value.unsure
    await chat.send_text(where(platform), "x", "k")
    assert texts(platform) == ["x"]


async def test_a_wrong_secret_is_explained_and_may_be_mended(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    """Refused credentials are transient, say what to check, and do not show the secret."""
    caplog.set_level(logging.DEBUG)
    wrong = replace(settings(platform.domain), app_secret="hunter2-hunter2")
    with capture_logs() as lines:
        async with FeishuChat(wrong) as chat:
            with pytest.raises(Transient, match=r"10014.*feishu\.app_secret") as caught:
                await chat.create_card(VIEW)
    assert caught.value.retry_after
    assert "hunter2" not in f"{caught.value} {lines} {caplog.text}"


@pytest.mark.parametrize("status", [429, 400])
async def test_the_rate_limit_header_is_obeyed(
    platform: Platform, chat: FeishuChat, status: int
) -> None:
    """Over the budget, the error says how long the platform wants us to wait."""
    platform.faults.rate_limit("im.message.*", reset=7, status=status)
    with pytest.raises(Transient) as caught:
        await chat.send_text(where(platform), "x", "k")
    assert (caught.value.retry_after, caught.value.unsure) == (7.0, False)
    assert texts(platform) == []


async def test_the_group_frequency_limit_is_transient(platform: Platform, chat: FeishuChat) -> None:
    """230020 is a frequency limit, not a lost target."""
    platform.faults.refuse("im.message.reply", 230020)
    sent = platform.people.send(platform.users[0], "x").message.message_id
    with pytest.raises(Transient) as caught:
        await chat.send_text(where(platform, reply_to=sent), "x", "k")
    assert caught.value.retry_after == 1.0


@pytest.mark.parametrize("how", ["lose_answer", "hang", "garbage", "server_error"])
async def test_a_write_without_an_answer_is_unsure(
    platform: Platform, chat: FeishuChat, how: str
) -> None:
    """A send that was cut, hung or got no JSON is unsure; the same key then shows it once."""
    getattr(platform.faults, how)("im.message.create")
    with pytest.raises(Transient) as caught:
        await chat.send_text(where(platform), "once", "k")
    assert caught.value.unsure
    await chat.send_text(where(platform), "once", "k")
    assert texts(platform) == ["once"]


async def test_a_read_without_an_answer_is_sure(platform: Platform, chat: FeishuChat) -> None:
    """Reading changes nothing, so it is never unsure."""
    platform.faults.lose_answer("im.message.list", times=5)
    with pytest.raises(Transient) as caught:
        await chat.sent_since(where(platform), 0.0)
    assert not caught.value.unsure


async def test_a_platform_that_is_not_there_got_nothing() -> None:
    """A refused connection is transient, and surely had no effect."""
    async with AsyncExitStack() as stack:
        async with Platform() as platform:
            chat = await stack.enter_async_context(FeishuChat(settings(platform.domain)))
            await chat.create_card(VIEW)
        with pytest.raises(Transient):  # Perhaps still on the pooled connection.
            await chat.send_text(Target(Place("a", "oc_1")), "x", "k")
        with pytest.raises(Transient, match="cannot connect") as caught:
            await chat.send_text(Target(Place("a", "oc_1")), "x", "k")
    assert not caught.value.unsure


async def test_a_text_without_utf8_form_does_not_break_a_call(
    platform: Platform, chat: FeishuChat
) -> None:
    """A lone surrogate that comes as far as the wire is replaced there."""
    chat_id = platform.p2p(platform.users[0]).chat_id
    await chat.api.create_message(chat_id, "text", '{"text": "a\ud800b"}', "k")
    assert texts(platform) == ["a?b"]


async def test_a_failing_token_call_is_no_unsure_send(platform: Platform, chat: FeishuChat) -> None:
    """When no token could be had, the write did not happen."""
    platform.faults.hang("auth.token")
    with pytest.raises(Transient) as caught:
        await chat.send_text(where(platform), "x", "k")
    assert not caught.value.unsure


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (230025, ContentRefused),
        (300305, ContentRefused),
        (200850, StreamClosed),
        (300309, StreamClosed),
        (300317, SequenceStale),
        (300313, Permanent),
        (99991672, Permanent),
    ],
)
@pytest.mark.parametrize("status", [200, 400])
async def test_refusals_of_card_calls(
    platform: Platform, chat: FeishuChat, code: int, kind: type[LarklineError], status: int
) -> None:
    """Each refusal is raised as its class, with the code and the log id."""
    card = await chat.create_card(VIEW)
    platform.faults.refuse("cardkit.element.content", code, status=status)
    with pytest.raises(kind, match=f"{code}.*log id 20") as caught:
        await chat.stream(card, "text", "more", 1)
    assert type(caught.value) is kind


@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_card_with_too_many_tables_is_refused_content(
    platform: Platform, chat: FeishuChat, wrapped: bool
) -> None:
    """11310 is ContentRefused, as a code and inside of 230099."""
    platform.variants.cardkit_refusal = "wrapped" if wrapped else "direct"
    platform.faults.refuse_cards(11310)
    with pytest.raises(ContentRefused) as caught:
        await chat.create_card(VIEW)
    assert caught.value.code == 11310


async def test_targets_that_are_gone(platform: Platform, chat: FeishuChat) -> None:
    """Recalled and unknown messages are TargetGone; a chat without us is ChatGone."""
    sent = platform.people.send(platform.users[0], "x").message
    platform.people.recall(sent)
    for gone in (sent.message_id, "om_" + "0" * 32):
        with pytest.raises(TargetGone):
            await chat.send_text(where(platform, reply_to=gone), "x", "k")
    platform.group.apps.clear()
    with pytest.raises(ChatGone):
        await chat.send_text(where(platform, platform.group), "x", "k2")


async def test_streaming_ends_after_ten_minutes_and_the_card_can_still_be_set(
    platform: Platform, chat: FeishuChat
) -> None:
    """After the platform closed the stream, `stream` says so and `replace_card` still works."""
    card = await chat.create_card(VIEW)
    shown = await chat.send_card(where(platform), card, "k")
    await chat.stream(card, "text", "draft", 1)
    await platform.clock.advance(601)
    for sequence in (2, 3):
        with pytest.raises(StreamClosed):
            await chat.stream(card, "text", "more", sequence)
    await chat.replace_card(card, replace(VIEW, text="final", live=False), 4)
    assert "final" in platform.text(platform.world.messages[shown])


async def test_a_final_card_streams_no_more(platform: Platform, chat: FeishuChat) -> None:
    """`replace_card` with a view that is not live leaves the card with streaming off."""
    card = await chat.create_card(VIEW)
    await chat.replace_card(card, replace(VIEW, live=False), 1)
    with pytest.raises(StreamClosed):
        await chat.stream(card, "text", "late", 5)


async def test_a_stream_that_is_closed_already_may_be_closed_again(
    platform: Platform, chat: FeishuChat
) -> None:
    """A platform that ended the stream before us does not fail the final card."""
    card = await chat.create_card(VIEW)
    platform.faults.refuse("cardkit.card.settings", 300309)
    await chat.replace_card(card, replace(VIEW, live=False), 1)
    platform.faults.refuse("cardkit.card.settings", 230027)
    with pytest.raises(Permanent):
        await chat.replace_card(card, replace(VIEW, live=False), 3)


async def test_a_reply_stands_under_its_message_and_in_its_thread(
    platform: Platform, chat: FeishuChat
) -> None:
    """Replies name their parent; in a thread they stay there and are found there."""
    asked = platform.people.send(platform.users[0], "hi", chat=platform.group, mention=True).message
    threaded = platform.people.send(
        platform.users[0], "in thread", chat=platform.group, reply_to=asked, in_thread=True
    ).message
    place = Place(platform.app.app_id, platform.group.chat_id, threaded.thread_id)
    before = time.time() - 5
    sent = await chat.send_text(Target(place, threaded.message_id), "answer", "k")
    message = platform.world.messages[sent]
    assert message.thread_id == threaded.thread_id
    found = await chat.sent_since(Target(place), before)
    assert [(each.id, each.text) for each in found] == [(sent, "answer")]
    assert await chat.sent_since(Target(place), time.time() + 60) == ()


async def test_sent_since_pages_through_a_busy_chat(platform: Platform, chat: FeishuChat) -> None:
    """Our own messages are found among many others, oldest first, none before `since`."""
    early = await chat.send_text(where(platform), "early", "k0")
    await platform.clock.advance(100)
    since = platform.clock.now() - 1
    ours = [await chat.send_text(where(platform), "first", "k1")]
    for number in range(120):
        platform.people.send(platform.users[0], f"noise {number}")
    ours.append(await chat.send_text(where(platform), "second", "k2"))
    found = await chat.sent_since(where(platform), since)
    assert [each.id for each in found] == ours
    assert MessageId(early) not in ours


@pytest.mark.parametrize("text", ["x" * 400_000, "汉" * 200_000, '"' * 200_000, "\0" * 9, "\ud800"])
async def test_any_text_can_be_sent(platform: Platform, chat: FeishuChat, text: str) -> None:
    """Texts over the limit are cut; what has no form on the wire is replaced."""
    await chat.send_text(where(platform), text, "k")
    shown = texts(platform)[0]
    assert shown
    assert len(shown.encode()) <= MAX_TEXT_BYTES
    assert shown[:1000] == text[:1000] or len(text) < 10


async def test_a_text_rings_nobody(platform: Platform, chat: FeishuChat) -> None:
    """An answer that holds a mention's markup mentions nobody."""
    await chat.send_text(where(platform), '<at user_id="all">x</at>', "k")
    assert "<at" not in texts(platform)[0]


async def test_long_keys_become_short_ones(platform: Platform, chat: FeishuChat) -> None:
    """A key longer than the platform takes still works, and still counts once."""
    for _ in range(2):
        await chat.send_text(where(platform), "x", "k" * 200)
    assert texts(platform) == ["x"]


async def test_every_exchange_is_observed(platform: Platform, chat: FeishuChat) -> None:
    """The observer gets api, code and seconds of calls that worked, failed or gave nothing."""
    await chat.create_card(VIEW)
    platform.faults.refuse("cardkit.card.create", 300305)
    with pytest.raises(ContentRefused):
        await chat.create_card(VIEW)
    platform.faults.hang("cardkit.card.create")
    with pytest.raises(Transient):
        await chat.create_card(VIEW)
    assert [(api, code) for api, code, _ in OBSERVED] == [
        ("auth.token", 0),
        ("cardkit.card.create", 0),
        ("cardkit.card.create", 300305),
        ("cardkit.card.create", NO_CODE),
    ]
    assert OBSERVED[-1][2] >= 0.5


async def test_scopes_and_identity(platform: Platform, chat: FeishuChat) -> None:
    """What doctor asks: who we are and which scopes are granted."""
    identity = await chat.api.identity()
    assert (identity.open_id, identity.name) == (platform.app.open_id, platform.app.name)
    platform.app.pending_scopes.add("im:chat")
    scopes = await chat.api.scopes()
    assert scopes["im:message:send_as_bot"]
    assert not scopes["im:chat"]


async def test_the_secret_stays_out_of_errors(platform: Platform, chat: FeishuChat) -> None:
    """A platform that quotes the secret in its text does not get it into our errors' logs."""
    platform.faults.refuse("im.message.create", 230001, f"bad: {APP_SECRET}")
    with pytest.raises(LarklineError) as caught:
        await chat.send_text(where(platform), "x", "k")
    assert APP_SECRET not in str(caught.value)
