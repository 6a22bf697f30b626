"""What intake makes of events."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from stage_kit import ANN, BOT, answers, message

from larkline.domain.errors import StoreError
from larkline.domain.model import (
    Accepted,
    Claim,
    Click,
    ConversationId,
    Ending,
    Final,
    Inbound,
    Malformed,
    MessageId,
    Outcome,
    Standing,
    Toast,
    Uninteresting,
    UserId,
    Verdict,
)
from larkline.policy.admission import Admission
from larkline.stages.commands import Actions, Commands
from larkline.stages.intake import Intake, IntakeSettings
from larkline.stores.memory import MemoryStore


class Desk:
    """An intake over a memory store, with what it set in motion."""

    def __init__(
        self, *, store: MemoryStore | None = None, admission: Admission | None = None,
        reject: bool = False, per_conversation: int = 20, bot: UserId | None = BOT,
    ) -> None:  # fmt: skip
        self.store = store or MemoryStore()
        self.bot = bot
        self.running: set[ConversationId] = set()
        self.stopped: list[ConversationId] = []
        self.woken = 0
        self.now = 0.0
        self.held_up = 0
        commands = Commands(
            Actions(
                is_running=lambda conversation: conversation in self.running,
                stop=self._stop,
                queued=self._queued,
                status=self._status,
            ),
            "en",
        )
        self.intake = Intake(
            self.store,
            IntakeSettings(
                admission or Admission(policy="open"), "en", 5, per_conversation, 500, reject
            ),
            judge_command=commands.judge,
            carry_out=commands.carry_out,
            bot=lambda: self.bot,
            wake=self._wake,
            settle_in=self._settle_in,
            clock=lambda: self.now,
        )

    def _stop(self, conversation: ConversationId) -> bool:
        self.stopped.append(conversation)
        return True

    async def _queued(self) -> int:
        return (await self.store.counts()).queued

    async def _status(self, conversation: ConversationId) -> str:
        return f"status of {conversation}"

    def _wake(self, standing: Standing) -> None:
        self.woken += 1

    def _settle_in(self) -> None:
        self.held_up += 1

    async def claims(self) -> list[Claim]:
        found = []
        while claim := await self.store.take():
            found.append(claim)
        return found

    async def told(self) -> list[str]:
        return [reply.final.text for reply in await answers(self.store)]


async def test_a_private_message_becomes_a_turn_once() -> None:
    """The same message id delivered again, and again, is one turn."""
    desk, hello = Desk(), message("  hello  ")
    for _ in range(3):
        assert await desk.intake.receive(hello) is None
    assert [claim.turn.prompt for claim in await desk.claims()] == ["hello"]
    assert desk.woken == 3  # a look too many is cheap, one too few is a turn that never starts


async def test_a_group_message_counts_only_with_the_bots_mention() -> None:
    """Other talk in a group is none of ours, and leaves no trace."""
    desk = Desk()
    await desk.intake.receive(message("@_user_1 hi", private=False, mentions=(ANN,)))
    await desk.intake.receive(message("talk", private=False))
    await desk.intake.receive(
        message("@_user_1 ask @_user_2 too", private=False, mentions=(BOT, ANN))
    )
    assert [claim.turn.prompt for claim in await desk.claims()] == [f"ask @{ANN} too"]
    assert await desk.told() == []


async def test_mentions_wait_until_the_bots_own_id_is_known() -> None:
    """Stored at once, judged later: those for the bot become turns, the others nothing."""
    desk = Desk(bot=None)
    await desk.intake.receive(message("@_user_1 for you", private=False, mentions=(BOT,)))
    await desk.intake.receive(message("@_user_1 for ann", private=False, mentions=(ANN,)))
    assert await desk.claims() == []
    desk.bot = BOT
    assert await desk.intake.judge_held() == 2
    assert await desk.intake.judge_held() == 0
    assert [claim.turn.prompt for claim in await desk.claims()] == ["for you"]


@pytest.mark.parametrize("policy", ["pairing", "allowlist"])
async def test_strangers_start_nothing_and_are_told_once(policy: str) -> None:
    """Whatever they write, commands too; the answer carries the id to be let in with."""
    desk = Desk(admission=Admission(policy, users=frozenset({"ou_boss"})))  # type: ignore[arg-type]
    stop = message("/stop")
    desk.running.add(stop.place.conversation)
    for each in (message("hello"), message("hello again"), stop):
        await desk.intake.receive(each)
    assert await desk.claims() == []
    assert desk.stopped == []
    told = await desk.told()
    assert len(told) == 1
    assert ANN in told[0]


async def test_listed_users_and_chats_are_admitted() -> None:
    """A person by open_id, or everybody in a listed chat."""
    desk = Desk(admission=Admission("allowlist", users=frozenset({ANN}), chats=frozenset({"oc_9"})))
    await desk.intake.receive(message("one"))
    await desk.intake.receive(message("two", chat="oc_9", sender=UserId("ou_bob")))
    assert [claim.turn.prompt for claim in await desk.claims()] == ["one", "two"]


async def test_other_kinds_get_an_answer_not_silence() -> None:
    """An image, a sticker or an empty text is answered and starts nothing."""
    desk = Desk()
    await desk.intake.receive(message(None, kind="sticker", chat="oc_a"))
    await desk.intake.receive(message("@_user_1", private=False, mentions=(BOT,), chat="oc_b"))
    told = await desk.told()
    assert any("sticker" in words for words in told)
    assert any("/help" in words for words in told)
    assert await desk.claims() == []


async def test_stop_acts_at_once_and_only_once() -> None:
    """A redelivered /stop doesn't hit the turn after; no notice when the card will say it."""
    desk, stop = Desk(), message("/stop")
    desk.running.add(stop.place.conversation)
    await desk.intake.receive(stop)
    await desk.intake.receive(stop)
    assert desk.stopped == [stop.place.conversation]
    assert await desk.told() == []


async def test_commands_answer_and_new_takes_its_place_in_order() -> None:
    """/help, /status and unknown ones are notices; /new is a turn among turns."""
    desk = Desk()
    for n, words in enumerate(("/help", "/status", "/nonsense", "/stop")):
        await desk.intake.receive(message(words, chat=f"oc_{n}"))
    told = " ".join(await desk.told())
    for words in ("/status: show", "status of ", "no command /nonsense", "Nothing is running"):
        assert words in told
    await desk.intake.receive(message("before", chat="oc_n"))
    await desk.intake.receive(message("/new with this", chat="oc_n"))
    first = await desk.store.take()
    assert first is not None
    assert first.turn.prompt == "before"
    await desk.store.settle(first, Outcome(Ending.ANSWERED, Final("ok")))
    second = await desk.store.take()
    assert second is not None
    assert (second.turn.kind, second.turn.prompt) == ("new", "with this")


async def test_reject_turns_the_sixth_message_away_with_the_founding_text() -> None:
    """overflow = reject: 5 at work, the sixth is told so and is not queued."""
    desk = Desk(reject=True)
    for n in range(6):
        await desk.intake.receive(message(chat=f"oc_{n}"))
    assert len(await desk.claims()) == 5
    assert await desk.told() == ["Too busy right now, please try again later (5/5 agent processes)"]


async def test_malformed_events_are_kept_and_others_ignored() -> None:
    """Neither raises, so both are acknowledged."""
    desk = Desk()
    await desk.intake.receive(Malformed("ev", b"\xff", "no JSON"))
    await desk.intake.receive(Uninteresting("im.chat.updated_v1"))
    assert await desk.claims() == []


async def test_a_store_that_fails_is_not_acknowledged() -> None:
    """The error reaches the chat, which lets the platform deliver again."""

    class Full(MemoryStore):
        async def accept(self, message: Inbound, verdict: Verdict) -> Accepted:
            raise StoreError("disk full")

    with pytest.raises(StoreError):
        await Desk(store=Full()).intake.receive(message())


def click(value: dict[str, object] | str, sender: UserId = ANN) -> Click:
    return Click("ev", sender, "oc_1", MessageId("om_card"), value)


async def test_again_queues_a_copy_once() -> None:
    """The button of an ended turn works once, by whoever is admitted."""
    desk = Desk(admission=Admission("allowlist", users=frozenset({ANN})))
    await desk.intake.receive(message("do it"))
    (claim,) = await desk.claims()
    pressed = click({"do": "again", "turn": str(claim.turn.id)})
    assert (await desk.intake.receive(pressed)).kind == "info"  # type: ignore[union-attr]
    await desk.store.settle(claim, Outcome(Ending.INTERRUPTED, Final("broken off")))
    stranger = click({"do": "again", "turn": str(claim.turn.id)}, UserId("ou_x"))
    assert (await desk.intake.receive(stranger)).kind == "warning"  # type: ignore[union-attr]
    assert (await desk.intake.receive(pressed)).kind == "success"  # type: ignore[union-attr]
    assert (await desk.intake.receive(pressed)).kind == "info"  # type: ignore[union-attr]
    assert [each.turn.prompt for each in await desk.claims()] == ["do it"]


async def test_again_obeys_the_limits_and_belongs_to_its_chat() -> None:
    """A full queue and a click from elsewhere queue nothing; with room the same click works."""
    desk = Desk(per_conversation=1)
    await desk.intake.receive(message("do it"))
    (claim,) = await desk.claims()
    await desk.store.settle(claim, Outcome(Ending.INTERRUPTED, Final("broken off")))
    await desk.intake.receive(message("and this"))
    pressed = click({"do": "again", "turn": str(claim.turn.id)})
    elsewhere = await desk.intake.receive(replace(pressed, chat_id="oc_2"))
    assert elsewhere == Toast("This button no longer works.", "warning")
    full = await desk.intake.receive(pressed)
    assert full == Toast("Too many messages are waiting. Press it again later.", "warning")
    (claim,) = await desk.claims()
    assert claim.turn.prompt == "and this"
    await desk.store.settle(claim, Outcome(Ending.ANSWERED, Final("done")))
    assert (await desk.intake.receive(pressed)).kind == "success"  # type: ignore[union-attr]
    assert [each.turn.prompt for each in await desk.claims()] == ["do it"]


@pytest.mark.parametrize(
    "value",
    ["again", "", {}, {"do": "again"}, {"do": "again", "turn": 1}, {"do": "again", "turn": "-1"},
     {"do": "again", "turn": "9" * 40}, {"do": "again", "turn": "٣"}, {"do": ["again"]}],
)  # fmt: skip
async def test_odd_clicks_get_a_toast(value: dict[str, object] | str) -> None:
    """Strings, wrong types and huge numbers are answered, not raised."""
    toast = await Desk().intake.receive(click(value))
    assert toast is not None
    assert toast.kind in ("warning", "info")


async def test_a_late_message_lets_its_neighbours_settle_in() -> None:
    """Only a message that was held up makes starts wait; a command never does."""
    desk = Desk()
    desk.now = 1000.0
    await desk.intake.receive(message(created_at=999.0))
    await desk.intake.receive(message("/help", created_at=900.0))
    assert desk.held_up == 0
    await desk.intake.receive(message(created_at=900.0))
    assert desk.held_up == 1


class Stalled(MemoryStore):
    """A store that takes its time to answer."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def accept(self, message: Inbound, verdict: Verdict) -> Accepted:
        done = await super().accept(message, verdict)
        await self.go.wait()
        return done


async def test_a_caller_that_gives_up_does_not_part_a_message_from_its_effects() -> None:
    """The ack's deadline passes while the store stalls: the turn starts, /stop still stops."""
    store = Stalled()
    desk, stop = Desk(store=store), message("/stop")
    desk.running.add(stop.place.conversation)
    for each in (message("hello", chat="oc_2"), stop):
        store.go.clear()
        asyncio.get_running_loop().call_later(0.05, store.go.set)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await desk.intake.receive(each)
    assert desk.woken == 2
    assert desk.stopped == [stop.place.conversation]


async def test_a_mention_is_judged_when_the_bots_id_comes_in_between() -> None:
    """The id is learnt while a message is being held: it is not held for ever."""
    store = Stalled()
    desk = Desk(store=store, bot=None)
    coming = asyncio.create_task(
        desk.intake.receive(message("@_user_1 hi", private=False, mentions=(BOT,)))
    )
    await asyncio.sleep(0.01)
    desk.bot = BOT
    store.go.set()
    await coming
    assert [claim.turn.prompt for claim in await desk.claims()] == ["hi"]
