"""The outbox through the Feishu adapter against the simulated platform: its refusals, for real."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from feishu_kit import settings, until

from larkline.chats.feishu.chat import FeishuChat
from larkline.domain.model import (
    Button,
    CardView,
    Claim,
    Ending,
    Final,
    Inbound,
    MessageId,
    NewTurn,
    Outcome,
    Place,
    QueueLimits,
    Standing,
    TurnKind,
    UserId,
    Verdict,
)
from larkline.lifecycle import running
from larkline.ports import Store
from larkline.sim.platform import Platform
from larkline.sim.world import Chat, Message
from larkline.stages.outbox import Outbox, OutboxSettings
from larkline.stores.sqlite import open_sqlite

TABLE = "| a | b |\n|---|---|\n| 1 | 2 |"


@dataclass
class Bench:
    """A platform, an outbox that runs over it, and what a turn has to show."""

    platform: Platform
    outbox: Outbox
    store: Store
    seen: list[str]

    async def claim(self, chat: Chat | None = None, kind: TurnKind = TurnKind.PROMPT) -> Claim:
        """A person wrote, and the turn was taken."""
        user = self.platform.users[0]
        where = chat or self.platform.p2p(user)
        written = self.platform.people.send(user, "hello", chat=where).message
        message = Inbound(
            MessageId(written.message_id), written.message_id,
            Place(self.platform.app.app_id, where.chat_id), True, UserId("ou"), "text", "hello",
            time.time(),
        )  # fmt: skip
        verdict = Verdict(Standing.TURN, NewTurn(kind, "hello"), QueueLimits(10_000, 10_000))
        await self.store.accept(message, verdict)
        claim = await self.store.take()
        assert claim is not None
        return claim

    async def settle(self, claim: Claim, final: Final) -> None:
        """The turn ended."""
        await self.store.settle(claim, Outcome(Ending.ANSWERED, final))
        self.outbox.wake()

    def answers(self, claim: Claim) -> list[Message]:
        """The bot's messages that answer the turn's."""
        place = self.platform.world.chats[claim.turn.place.chat_id]
        replies = self.platform.replies(place)
        return [each for each in replies if each.parent_id == claim.turn.message_id]

    def texts(self, claim: Claim) -> list[str]:
        """What a reader sees of the answers."""
        return [self.platform.text(each) for each in self.answers(claim)]

    async def until_texts(self, claim: Claim, *wanted: str, seconds: float = 20.0) -> None:
        """Wait until the answers begin with these texts."""

        def there() -> bool:
            texts = self.texts(claim)
            return len(texts) == len(wanted) and all(
                text.startswith(begin) for text, begin in zip(texts, wanted, strict=True)
            )

        try:
            await self.platform.until(there, seconds)
        except TimeoutError:
            raise AssertionError(f"{self.texts(claim)} instead of {wanted}") from None


@asynccontextmanager
async def bench(**changes: float) -> AsyncIterator[Bench]:
    """Everything running, all of it real but the platform."""
    async with AsyncExitStack() as stack:
        platform = await stack.enter_async_context(Platform())
        chat = await stack.enter_async_context(FeishuChat(settings(platform.domain, call=2.0)))
        folder = Path(stack.enter_context(TemporaryDirectory()))
        store, seen = await open_sqlite(folder / "larkline.db"), list[str]()
        stack.push_async_callback(store.close)
        wanted = replace(OutboxSettings(language="en"), **changes)  # type: ignore[arg-type]
        outbox = Outbox(store, chat, wanted, observe=seen.append)
        await stack.enter_async_context(running("outbox", outbox.run()))
        await asyncio.sleep(0)
        yield Bench(platform, outbox, store, seen)


def live(text: str) -> CardView:
    """A live view."""
    return CardView(text, "Answering", live=True, summary=text[:20])


async def test_a_card_streams_and_ends_with_the_exact_final() -> None:
    """Thinking, text, final with a button: one message, nothing refused."""
    async with bench() as b:
        claim = await b.claim()
        view = live("")
        async with b.outbox.open_reply(claim, lambda: view) as revised:
            await b.platform.until(lambda: len(b.answers(claim)) == 1)
            for end in range(1, 30):
                view = live("grow " * end)
                revised()
                await asyncio.sleep(0.03)
            await b.until_texts(claim, ("grow " * 29).strip())
        await b.settle(claim, Final("The <b>final</b>.", "done", (Button("Go", {"do": "x"}),)))
        await b.until_texts(claim, "The &#60;b>final&#60;/b>.")
        card = b.platform.card(b.answers(claim)[0])
        assert card is not None
        await b.platform.until(lambda: not card.streaming)
        assert b.platform.refusals() == []


async def test_cards_rotate_by_timer_before_the_platform_closes_them() -> None:
    """A new card takes over, the old one points to it, and nothing was refused on the way."""
    async with bench(rotate_after=0.6) as b:
        claim = await b.claim()
        view = live("So far")
        async with b.outbox.open_reply(claim, lambda: view) as revised:
            await b.platform.until(lambda: len(b.answers(claim)) == 2)
            view = live("So far, so good")
            revised()
            await b.until_texts(claim, "⤵️", "So far, so good")
        await b.settle(claim, Final("All."))
        await b.until_texts(claim, *["⤵️"] * (len(b.texts(claim)) - 1), "All.")
        assert b.platform.refusals() == []


async def test_a_stream_that_the_platform_closed_moves_to_a_new_card() -> None:
    """200850 after ten minutes: the text goes on in a new card at once."""
    async with bench() as b:
        claim = await b.claim()
        view = live("Before")
        async with b.outbox.open_reply(claim, lambda: view) as revised:
            await b.until_texts(claim, "Before")
            await b.platform.clock.advance(601)
            view = live("Before and after")
            revised()
            await b.until_texts(claim, "⤵️", "Before and after")
        await b.settle(claim, Final("Done."))
        await b.until_texts(claim, "⤵️", "Done.")
        assert [call.code for call in b.platform.refusals()] == [200850]


async def test_too_many_tables_are_split_and_a_refused_card_becomes_text() -> None:
    """11310 is avoided by pages; when the platform says it all the same the answer is text."""
    async with bench() as b:
        claim = await b.claim()
        await b.settle(claim, Final("\n\n".join([TABLE] * 8)))
        await b.platform.until(lambda: len(b.answers(claim)) == 2)
        await until(lambda: "delivered" in b.seen)
        assert b.platform.refusals() == []
        b.platform.faults.refuse_cards(11310)
        second = await b.claim()
        await b.settle(second, Final(TABLE))
        await b.until_texts(second, "| a | b |")
        assert b.answers(second)[0].msg_type == "text"
        await until(lambda: b.seen == ["delivered", "as_text", "delivered"])


async def test_a_final_that_is_refused_leaves_no_thinking_behind() -> None:
    """230099 at the end: the card says see below, the text follows once."""
    async with bench() as b:
        claim = await b.claim()
        async with b.outbox.open_reply(claim, lambda: live("thinking")):
            await b.until_texts(claim, "thinking")
        b.platform.faults.refuse_cards(200621)
        await b.settle(claim, Final("The answer."))
        await b.until_texts(claim, "⤵️", "The answer.")
        card = b.platform.card(b.answers(claim)[0])
        assert card is not None
        assert not card.streaming


async def test_a_final_that_no_form_may_show_says_so() -> None:
    """Card and text refused: the card says see below, and below a line gives the code."""
    async with bench() as b:
        claim = await b.claim()
        async with b.outbox.open_reply(claim, lambda: live("thinking")):
            await b.until_texts(claim, "thinking")
        b.platform.faults.refuse_cards(200621)
        b.platform.faults.refuse("im.message.reply", 230025)
        await b.settle(claim, Final("The answer."))
        await b.until_texts(claim, "⤵️", "⚠️")
        assert "code 230025" in b.texts(claim)[1]
        await until(lambda: b.seen == ["as_text", "refused", "delivered"])


async def test_a_missing_scope_delays_an_answer_and_loses_none() -> None:
    """99991672 until an operator grants it: the answer is there then."""
    async with bench() as b:
        claim = await b.claim(kind=TurnKind.NEW)
        for _ in range(2):
            b.platform.faults.refuse("im.message.reply", 99991672)
        await b.settle(claim, Final("granted", as_card=False))
        await b.until_texts(claim, "granted")
        await until(lambda: b.seen == ["postponed", "postponed", "delivered"])


async def test_a_stale_sequence_is_raised() -> None:
    """300317: somebody used higher numbers; the card goes on above them."""
    async with bench() as b:
        claim = await b.claim()
        view = live("One")
        async with b.outbox.open_reply(claim, lambda: view) as revised:
            await b.until_texts(claim, "One")
            card = b.platform.card(b.answers(claim)[0])
            assert card is not None
            card.sequence = 5000
            view = live("One two")
            revised()
            await b.until_texts(claim, "One two")
        await b.settle(claim, Final("One two three"))
        await b.until_texts(claim, "One two three")
        assert {call.code for call in b.platform.refusals()} == {300317}


async def test_lost_answers_and_limits_show_nothing_twice() -> None:
    """Answers that never came and 429s are waited out under the same key."""
    async with bench() as b:
        faults = b.platform.faults
        faults.lose_answer("im.message.reply")
        faults.rate_limit("cardkit.element.content", reset=1)
        faults.server_error("cardkit.card.update")
        claim = await b.claim()
        view = live("")
        async with b.outbox.open_reply(claim, lambda: view) as revised:
            await b.platform.until(lambda: len(b.answers(claim)) == 1)
            view = live("text")
            revised()
            await b.until_texts(claim, "text")
        await b.settle(claim, Final("final"))
        await b.until_texts(claim, "final")
        plain = await b.claim(kind=TurnKind.NEW)
        faults.lose_answer("im.message.reply")
        await b.settle(plain, Final("plain", as_card=False))
        await until(lambda: b.seen.count("delivered") == 2, 20)
        assert b.texts(plain) == ["plain"]
        assert len(b.answers(claim)) == 1


async def test_a_recalled_question_is_answered_loosely() -> None:
    """230011: the answer comes as a message of its own."""
    async with bench() as b:
        claim = await b.claim(kind=TurnKind.NEW)
        b.platform.faults.refuse("im.message.reply", 230011)
        await b.settle(claim, Final("still here", as_card=False))
        await until(lambda: "delivered" in b.seen)
        place = b.platform.world.chats[claim.turn.place.chat_id]
        assert [b.platform.text(each) for each in b.platform.replies(place)] == ["still here"]


async def test_a_long_final_takes_cards_that_the_platform_accepts() -> None:
    """Hundreds of kilobytes in several scripts arrive in order, in cards, without a refusal."""
    async with bench() as b:
        words = "".join(f'第{n}段 with <tags> & "quotes" \\ 和中文。\n\n' for n in range(2500))
        claim = await b.claim()
        await b.settle(claim, Final(words, "done"))
        await until(lambda: "delivered" in b.seen, 30)
        assert b.platform.refusals() == []
        together = "".join(b.texts(claim))
        places = [together.index(f"第{n}段") for n in range(2500)]
        assert places == sorted(places)
