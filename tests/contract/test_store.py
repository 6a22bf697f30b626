"""The contract of `larkline.ports.Store`, over every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from store_kit import HERE, ROOMY, START, THERE, Lab, answer, message, note, turn

from larkline.domain.errors import StoreError
from larkline.domain.model import (
    Again,
    Button,
    CardId,
    Claim,
    Ending,
    Final,
    Malformed,
    Mention,
    MessageId,
    NewNotice,
    Outcome,
    Part,
    Place,
    QueueCounts,
    QueueLimits,
    ReplyId,
    SessionId,
    Standing,
    Target,
    TurnId,
    TurnKind,
    Usage,
    UserId,
    Verdict,
)
from larkline.ports import Cutoffs, Store

HELD = Verdict(Standing.HELD)
ANSWERED = Verdict(Standing.ANSWERED)
DAY = 86400.0


@pytest.fixture(params=["memory", "sqlite"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Lab:
    return Lab(request.param, tmp_path)


@pytest.fixture
async def store(lab: Lab) -> AsyncIterator[Store]:
    store = await lab.open()
    yield store
    await store.close()


async def taken(store: Store) -> Claim:
    claim = await store.take()
    assert claim is not None
    return claim


async def queued(
    store: Store, name: str, place: Place = HERE, kind: TurnKind = TurnKind.PROMPT
) -> TurnId:
    accepted = await store.accept(message(name, place), turn(name, kind=kind))
    assert accepted.turn is not None
    return accepted.turn


async def texts_due(store: Store, now: float = START) -> list[str]:
    return [each.final.text for each in await store.due(now, 100)]


# accept


async def test_an_accepted_message_is_there_after_a_restart(lab: Lab) -> None:
    """Message and turn outlive the store."""
    store = await lab.open()
    accepted = await store.accept(message("1"), turn("do it"))
    await store.close()
    store = await lab.open()
    claim = await taken(store)
    assert accepted.fresh
    assert accepted.standing is Standing.TURN
    assert accepted.turn == claim.turn.id
    assert claim.turn.prompt == "do it"
    assert claim.turn.message_id == "om_1"
    assert claim.turn.place == HERE
    assert claim.turn.private
    assert claim.turn.sender == "ou_ann"
    assert claim.turn.accepted_at == START
    await store.close()


@pytest.mark.parametrize("first", [turn("a"), ANSWERED], ids=["turn", "answered"])
async def test_a_message_is_judged_once(store: Store, first: Verdict) -> None:
    """A message id that was judged before changes nothing, whatever is said about it."""
    accepted = await store.accept(message("1"), first)
    repeated = await store.accept(message("1"), replace(turn("b"), notice=note("n")))
    assert repeated == replace(accepted, fresh=False)
    assert (await store.counts()).queued == (1 if first.turn else 0)
    assert await texts_due(store) == []


async def test_a_repeated_message_does_not_move_its_conversation(lab: Lab, store: Store) -> None:
    """A redelivery leaves the conversation as it is."""
    await store.accept(message("1"), turn())
    before = await store.conversation(HERE.conversation)
    lab.clock.now += 60
    await store.accept(message("1"), turn())
    assert await store.conversation(HERE.conversation) == before


async def test_a_held_message_is_judged_again_once(store: Store) -> None:
    """Held, held again, then a turn; after that it is judged."""
    assert (await store.accept(message("1"), HELD)).fresh
    assert await store.accept(message("1"), HELD) == replace(
        await store.accept(message("1"), HELD), fresh=False
    )
    judged = await store.accept(message("1"), turn("now"))
    assert judged.fresh
    assert judged.turn is not None
    assert await store.held(10) == ()
    assert await store.accept(message("1"), turn("again")) == replace(judged, fresh=False)
    assert await store.counts() == QueueCounts(1, 0)


async def test_held_messages_come_back_whole_and_oldest_first(lab: Lab) -> None:
    """Every field of a held message survives; the order is that of arrival."""
    store = await lab.open()
    full = replace(
        message("b", Place("cli_app", "oc_x", "omt_1"), text="@_user_1 嗨\x00\x07\U0001f600"),
        mentions=(Mention("@_user_1", UserId("ou_bot"), "机器人"),),
        parent_id="om_parent",
        created_at=START + 0.25,
    )
    await store.accept(full, HELD)
    lab.clock.now += 1
    bare = message("a", text=None)
    await store.accept(bare, HELD)
    await store.close()
    store = await lab.open()
    assert await store.held(10) == (full, bare)
    assert await store.held(1) == (full,)
    await store.close()


@pytest.mark.parametrize(
    ("limits", "fits"),
    [
        (QueueLimits(per_conversation=2, total=100), {"here": 2, "there": 2}),
        (QueueLimits(per_conversation=100, total=3), {"here": 3, "there": 0}),
        (QueueLimits(per_conversation=100, total=100, in_flight=3), {"here": 3, "there": 0}),
        (QueueLimits(per_conversation=0, total=100), {"here": 0, "there": 0}),
    ],
    ids=["conversation", "total", "in_flight", "zero"],
)
async def test_a_turn_over_the_limits_is_refused_with_a_notice(
    store: Store, limits: QueueLimits, fits: dict[str, int]
) -> None:
    """The message becomes REFUSED, `busy` is stored in place of turn and notice."""
    verdict = replace(turn(limits=limits), busy=note("full"), notice=note("never"))
    for name, place in (("here", HERE), ("there", THERE)):
        for n in range(4):
            accepted = await store.accept(message(f"{name}{n}", place), verdict)
            within = n < fits[name]
            assert accepted.fresh
            assert accepted.standing is (Standing.TURN if within else Standing.REFUSED)
            assert (accepted.turn is not None) is within
    assert (await store.counts()).queued == sum(fits.values())
    repeated = await store.accept(message("here3"), turn())
    assert (repeated.fresh, repeated.standing) == (False, Standing.REFUSED)
    if fits["here"] == 0:
        assert await texts_due(store) == ["full"]


async def test_running_turns_count_for_in_flight_only(store: Store) -> None:
    """A running turn leaves the queue but not what is in flight."""
    await queued(store, "0")
    await taken(store)
    one = QueueLimits(per_conversation=1, total=1)
    accepted = await store.accept(message("1"), turn(limits=replace(one, in_flight=1)))
    assert accepted.standing is Standing.REFUSED
    accepted = await store.accept(message("2"), turn(limits=one))
    assert accepted.standing is Standing.TURN


async def test_a_verdict_may_bring_a_notice(store: Store) -> None:
    """A notice is stored with the message, as plain text to its target."""
    notice = note("hello stranger", THERE, reply_to="om_9")
    await store.accept(message("1"), Verdict(Standing.ANSWERED, notice=notice))
    (reply,) = await store.due(START, 10)
    assert reply.target == Target(THERE, "om_9")
    assert reply.final == Final("hello stranger", as_card=False)
    assert reply.turn is None
    assert reply.parts == ()
    assert reply.conversation == THERE.conversation
    assert (reply.attempts, reply.due_at) == (0, START)


async def test_accepting_makes_the_conversation_known(store: Store) -> None:
    """The first message of a place makes its conversation; later ones do not make another."""
    assert await store.conversation(HERE.conversation) is None
    assert await store.conversation_count() == 0
    await store.accept(message("1"), ANSWERED)
    await store.accept(message("2"), turn())
    await store.accept(message("3", THERE), HELD)
    known = await store.conversation(HERE.conversation)
    assert known is not None
    assert (known.place, known.private, known.session) == (HERE, True, None)
    assert known.last_active == START
    assert await store.conversation_count() == 2


@pytest.mark.parametrize("kind", ["control", "surrogate", "huge", "empty"])
async def test_any_text_can_be_stored(lab: Lab, kind: str) -> None:
    """Control characters, halves of surrogate pairs and long texts break nothing."""
    text = {
        "control": "a\x00b\x1b[31m\x7f\u2028\r\n\ufffe",
        "surrogate": "half \ud83d here, whole \U0001f600 there",
        "huge": "多" * 150_000,
        "empty": "",
    }[kind]
    store = await lab.open()
    await store.accept(message("1"), turn(text))
    await store.accept(message("2", THERE, text=text), HELD)
    await store.notify(note(text))
    claim = await taken(store)
    await store.settle(claim, Outcome(Ending.ANSWERED, Final(text), detail=text))
    await store.close()
    store = await lab.open()
    prompt = claim.turn.prompt
    if kind == "surrogate":
        assert prompt.startswith("half ")
        assert prompt.endswith(" here, whole \U0001f600 there")
    else:
        assert prompt == text
    (held,) = await store.held(1)
    assert held.text == text
    await store.delivered((await store.due(START, 1))[0].id)
    assert await texts_due(store) == [text]
    await store.close()


# take


async def test_take_starts_a_turn_and_opens_its_reply(store: Store) -> None:
    """The turn runs under a raised epoch; its reply is open at its place, with one part."""
    turn_id = await queued(store, "1")
    claim = await taken(store)
    assert claim.turn.id == turn_id
    assert (claim.epoch, claim.attempt, claim.session) == (1, 1, None)
    assert await store.counts() == QueueCounts(0, 1)
    reply = await store.live(claim.reply)
    assert reply is not None
    assert reply.target == Target(HERE, "om_1")
    assert (reply.turn, reply.conversation) == (turn_id, HERE.conversation)
    (part,) = reply.parts
    assert (part.reply, part.ordinal, part.page, part.form) == (claim.reply, 0, 0, "card")
    assert (part.card, part.message, part.reserved, part.send_began) == (None, None, 0, None)
    assert part.state == "live"
    assert 32 <= len(part.key) <= 50
    assert await store.due(START, 10) == ()


async def test_turns_without_a_prompt_open_a_text_reply(store: Store) -> None:
    """A bare NEW turn is answered in plain text."""
    await store.accept(message("1"), turn("", kind=TurnKind.NEW))
    claim = await taken(store)
    reply = await store.live(claim.reply)
    assert claim.turn.kind is TurnKind.NEW
    assert reply is not None
    assert [each.form for each in reply.parts] == ["text"]


async def test_nothing_to_take(store: Store) -> None:
    """An empty queue gives None."""
    assert await store.take() is None


async def test_a_conversation_with_a_running_turn_is_passed_over(store: Store) -> None:
    """One turn of a conversation at a time; the others go on."""
    await queued(store, "1")
    await queued(store, "2")
    await queued(store, "3", THERE)
    first, second = await taken(store), await taken(store)
    assert (first.turn.message_id, second.turn.message_id) == ("om_1", "om_3")
    assert await store.take() is None
    assert await store.settle(first, answer())
    assert (await taken(store)).turn.message_id == "om_2"


async def test_created_at_then_id_then_store_order_decide_inside_a_conversation(
    store: Store,
) -> None:
    """Messages that came shuffled are taken as they were written."""
    for name, at in (("c", 3.0), ("b", 1.0), ("d", 2.0), ("a", 1.0)):
        await store.accept(message(name, at=START + at), turn(name))
    order = []
    while (claim := await store.take()) is not None:
        order.append(claim.turn.prompt)
        await store.settle(claim, answer())
    assert order == ["a", "b", "d", "c"]


async def test_among_conversations_the_turn_stored_first_decides(store: Store) -> None:
    """A message that claims to be older does not overtake another conversation."""
    await store.accept(message("1", HERE, at=START + 9), turn("here"))
    await store.accept(message("2", THERE, at=START - 9), turn("there"))
    assert (await taken(store)).turn.prompt == "here"
    assert (await taken(store)).turn.prompt == "there"


async def test_prompt_uuids_and_part_keys_are_never_used_again(store: Store) -> None:
    """Every claim has its own prompt uuid and part key."""
    seen: set[str] = set()
    for n in range(20):
        await queued(store, str(n))
        claim = await taken(store)
        reply = await store.live(claim.reply)
        assert reply is not None
        seen |= {claim.prompt_uuid, reply.parts[0].key}
        await store.settle(claim, answer())
    assert len(seen) == 40


# settle


async def test_settle_makes_the_answer_due(lab: Lab, store: Store) -> None:
    """The final arrives at the outbox whole, with its parts; the turn is over."""
    turn_id = await queued(store, "1")
    claim = await taken(store)
    final = Final("**text**", "3 s", (Button("再发一次", {"again": "1"}),), as_card=True)
    lab.clock.now += 5
    outcome = Outcome(Ending.OVERLOADED, final, detail="529", usage=Usage(1, 2, 3, 4, 0.5))
    assert await store.settle(claim, outcome)
    assert await store.live(claim.reply) is None
    (reply,) = await store.due(lab.clock.now, 10)
    assert (reply.id, reply.turn, reply.final) == (claim.reply, turn_id, final)
    assert reply.target == Target(HERE, "om_1")
    assert reply.due_at == START + 5
    assert len(reply.parts) == 1
    assert await store.counts() == QueueCounts(0, 0)


async def test_settle_again_is_harmless(store: Store) -> None:
    """The same settlement, repeated, is true and makes nothing due twice."""
    await queued(store, "1")
    claim = await taken(store)
    assert await store.settle(claim, answer("once"))
    assert await store.settle(claim, answer("once"))
    (reply,) = await store.due(START, 10)
    await store.delivered(reply.id)
    assert await store.settle(claim, answer("once"))
    assert await store.due(START, 10) == ()


async def test_an_old_epoch_settles_nothing(lab: Lab) -> None:
    """Whoever lost the turn is told so and changes nothing."""
    store = await lab.open()
    await queued(store, "1")
    frozen = await taken(store)
    await store.close()
    store = await lab.open()
    (claim,) = await store.orphans()
    assert not await store.settle(frozen, answer("frozen", session="s-frozen"))
    assert await store.counts() == QueueCounts(0, 1)
    assert await store.due(START, 10) == ()
    assert await store.settle(claim, answer("owner"))
    assert not await store.settle(frozen, answer("frozen", session="s-frozen"))
    assert await texts_due(store) == ["owner"]
    known = await store.conversation(HERE.conversation)
    assert known is not None
    assert known.session is None
    await store.close()


async def test_settling_what_was_never_stored_is_false(store: Store) -> None:
    """A claim of an unknown turn settles nothing."""
    await queued(store, "1")
    claim = await taken(store)
    stranger = replace(claim, turn=replace(claim.turn, id=TurnId(10_000)))
    assert not await store.settle(stranger, answer())


async def test_the_outcome_says_what_becomes_of_the_session(lab: Lab, store: Store) -> None:
    """An id is stored and comes with the next claim; None leaves it; '' forgets it."""
    expected = {"one": "s-1", "left": "s-1", "two": "s-2", "gone": None}
    said = {"one": "s-1", "left": None, "two": "s-2", "gone": ""}
    before: str | None = None
    for name, session in said.items():
        await queued(store, name)
        claim = await taken(store)
        assert claim.session == before
        lab.clock.now += 1
        await store.settle(claim, answer(session=session))
        known = await store.conversation(HERE.conversation)
        assert known is not None
        assert known.session == expected[name]
        assert known.last_active == lab.clock.now
        before = known.session


# orphans


async def test_orphans_are_claimed_anew(lab: Lab) -> None:
    """A turn found running comes with a raised epoch, its open reply and its parts."""
    store = await lab.open()
    await queued(store, "1")
    await queued(store, "2", THERE)
    await queued(store, "3", THERE)
    lost = [await taken(store), await taken(store)]
    await store.save_part(Part(lost[0].reply, 0, 0, "card", "k" * 36, CardId("c1"), reserved=100))
    await store.close()
    store = await lab.open()
    orphans = await store.orphans()
    assert [each.turn for each in orphans] == [each.turn for each in lost]
    assert [each.reply for each in orphans] == [each.reply for each in lost]
    assert [(each.epoch, each.attempt) for each in orphans] == [(2, 2), (2, 2)]
    assert not {each.prompt_uuid for each in orphans} & {each.prompt_uuid for each in lost}
    reply = await store.live(orphans[0].reply)
    assert reply is not None
    assert [(each.card, each.reserved) for each in reply.parts] == [("c1", 100)]
    assert await store.take() is None
    assert await store.settle(orphans[1], answer())
    assert (await taken(store)).turn.prompt == "3"
    assert await store.orphans() == ()
    await store.close()


async def test_own_turns_are_no_orphans(store: Store) -> None:
    """What this process took itself is not found again."""
    await queued(store, "1")
    await taken(store)
    assert await store.orphans() == ()


# cancel, again


async def test_a_queued_turn_can_be_dropped(store: Store) -> None:
    """A dropped turn is never taken; dropping it again, or a running one, is False."""
    first, second = await queued(store, "1"), await queued(store, "2")
    assert await store.cancel(first)
    assert not await store.cancel(first)
    claim = await taken(store)
    assert claim.turn.id == second
    assert not await store.cancel(second)
    await store.settle(claim, answer())
    assert not await store.cancel(second)
    assert not await store.cancel(TurnId(9999))
    assert await store.take() is None


async def test_an_ended_turn_can_be_queued_again_once(store: Store) -> None:
    """A copy of the ended turn, to the same message; the second copy is refused."""
    old = await queued(store, "1")
    assert await again(store, old, "click-1") is Again.DONE_BEFORE
    claim = await taken(store)
    assert await again(store, old, "click-1") is Again.DONE_BEFORE
    await store.settle(claim, answer())
    copy = await store.again(old, "click-1", HERE.chat_id, ROOMY)
    assert copy.became is Again.QUEUED
    assert copy.turn is not None
    assert copy.turn > old
    assert await again(store, old, "click-1") is Again.DONE_BEFORE
    assert await again(store, old, "click-2") is Again.DONE_BEFORE
    repeated = await taken(store)
    assert repeated.turn == replace(claim.turn, id=copy.turn)
    assert (repeated.epoch, repeated.attempt) == (1, 1)
    assert repeated.reply != claim.reply


async def test_a_key_copies_one_turn_only(store: Store) -> None:
    """The key of a copy does not copy another turn."""
    turns = [await ended(store, name) for name in ("1", "2")]
    assert await again(store, turns[0], "click") is Again.QUEUED
    assert await again(store, turns[1], "click") is Again.DONE_BEFORE


async def test_a_dropped_turn_did_not_end(store: Store) -> None:
    """What was dropped is not copied."""
    dropped = await queued(store, "1")
    await store.cancel(dropped)
    assert await again(store, dropped, "click") is Again.DONE_BEFORE


async def test_only_the_turns_of_its_own_chat_are_sent_again(store: Store) -> None:
    """From another chat a turn is as unknown as one that never was; topics are of their chat."""
    topic = Place(HERE.app_id, HERE.chat_id, "omt_1")
    old, in_topic = await ended(store, "1"), await ended(store, "2", topic)
    assert await again(store, old, "click", THERE) is Again.UNKNOWN
    assert await again(store, TurnId(9999), "click") is Again.UNKNOWN
    assert (await store.counts()).queued == 0
    assert await again(store, old, "click") is Again.QUEUED
    assert await again(store, in_topic, "click-2") is Again.QUEUED


@pytest.mark.parametrize(
    "limits",
    [QueueLimits(1, 9), QueueLimits(9, 1), QueueLimits(9, 9, in_flight=1)],
    ids=["conversation", "total", "in flight"],
)
async def test_a_copy_obeys_the_limits_of_the_queue(store: Store, limits: QueueLimits) -> None:
    """A full queue takes no copy, and the turn can be sent again when there is room."""
    old = await ended(store, "1")
    await queued(store, "2")
    assert await again(store, old, "click", limits=limits) is Again.FULL
    assert await store.counts() == QueueCounts(1, 0)
    await store.settle(await taken(store), answer())
    assert await again(store, old, "click", limits=limits) is Again.QUEUED


async def test_a_copy_has_the_time_of_its_click(lab: Lab) -> None:
    """It comes after what waits already, and before what is written later."""
    store = await lab.open()
    old = await ended(store, "1")
    await store.accept(message("younger", at=START + 5), turn("younger"))
    lab.clock.now = START + 10
    assert await again(store, old, "click") is Again.QUEUED
    await store.accept(message("later", at=START + 15), turn("later"))
    ahead = {each.turn.prompt: each.ahead for each in await store.waiting(9)}
    assert ahead == {"younger": 0, "1": 1, "later": 2}
    prompts = []
    for _ in range(3):
        claim = await taken(store)
        prompts.append(claim.turn.prompt)
        await store.settle(claim, answer())
    assert prompts == ["younger", "1", "later"]
    await store.close()


async def ended(store: Store, name: str, place: Place = HERE) -> TurnId:
    """A turn that was answered."""
    turn_id = await queued(store, name, place)
    await store.settle(await taken(store), answer())
    return turn_id


async def again(
    store: Store, old: TurnId, key: str, place: Place = HERE, limits: QueueLimits = ROOMY
) -> Again:
    """What becomes of a click in a place."""
    return (await store.again(old, key, place.chat_id, limits)).became


# waiting, announce, counts


async def test_waiting_turns_know_how_many_come_before(store: Store) -> None:
    """Queued turns stored earlier count, and the running one of the same conversation."""
    await queued(store, "1")
    await queued(store, "2")
    await queued(store, "3", THERE)
    await queued(store, "4")
    await taken(store)
    assert [(each.turn.prompt, each.ahead) for each in await store.waiting(10)] == [
        ("2", 1),
        ("3", 1),
        ("4", 3),
    ]
    assert [each.turn.prompt for each in await store.waiting(2)] == ["2", "3"]


async def test_a_turn_is_announced_once(store: Store) -> None:
    """An announced turn is no longer listed, and its notice is stored once."""
    first, second = await queued(store, "1"), await queued(store, "2", THERE)
    await store.announce(first, note("you are next"))
    await store.announce(first, note("you are next"))
    await store.announce(second, None)
    assert await store.waiting(10) == ()
    assert await texts_due(store) == ["you are next"]


async def test_a_turn_that_started_is_not_announced(store: Store) -> None:
    """A position that came too late is not told."""
    turn_id = await queued(store, "1")
    await taken(store)
    await store.announce(turn_id, note("you are next"))
    assert await store.waiting(10) == ()
    assert await texts_due(store) == []


async def test_counts(store: Store) -> None:
    """Queued and running turns, now."""
    assert await store.counts() == QueueCounts(0, 0)
    for n in range(3):
        await queued(store, str(n), Place("a", f"oc_{n}"))
    claim = await taken(store)
    assert await store.counts() == QueueCounts(2, 1)
    await store.settle(claim, answer())
    assert await store.counts() == QueueCounts(2, 0)


# the inbox


async def test_malformed_events_are_kept_once_per_id(lab: Lab, store: Store) -> None:
    """The same event twice is one; events without an id are told apart by their bodies."""
    for event in (
        Malformed("ev_1", b"\xff{", "not JSON"),
        Malformed("ev_1", b"other", "not JSON"),
        Malformed("", b"x", "no id"),
        Malformed("", b"x", "no id"),
        Malformed("", b"y", "no id"),
    ):
        await store.keep(event)
    lab.clock.now += DAY
    assert (await store.prune(Cutoffs(lab.clock.now, 0)))["raw_events"] == 3


async def test_a_notice_with_a_key_is_stored_once_ever(lab: Lab) -> None:
    """The key counts wherever the notice comes from, across restarts and pruning."""
    store = await lab.open()
    assert await store.notify(note("hi", once="stranger:ou_1"))
    assert not await store.notify(note("hi", once="stranger:ou_1"))
    verdict = Verdict(Standing.ANSWERED, notice=note("hi", once="stranger:ou_1"))
    await store.accept(message("1"), verdict)
    assert await store.notify(note("hi"))
    for _ in range(2):
        (reply,) = await store.due(START, 1)
        await store.delivered(reply.id)
    assert await store.due(START, 1) == ()
    lab.clock.now += DAY
    await store.prune(Cutoffs(lab.clock.now, lab.clock.now))
    await store.close()
    store = await lab.open()
    assert not await store.notify(note("hi", once="stranger:ou_1"))
    await store.close()


# deliveries


async def test_answers_come_before_notices_and_older_before_younger(store: Store) -> None:
    """Due: turns' answers first, then notices, each by age."""
    places = [Place("a", f"oc_{n}") for n in range(4)]
    await store.notify(note("notice 0", places[0]))
    claims = []
    for n in (1, 2):
        await queued(store, str(n), places[n])
        claims.append(await taken(store))
    await store.notify(note("notice 3", places[3]))
    await store.settle(claims[1], answer("answer 2"))
    await store.settle(claims[0], answer("answer 1"))
    assert await texts_due(store) == ["answer 2", "answer 1", "notice 0", "notice 3"]
    assert [each.final.text for each in await store.due(START, 2)] == ["answer 2", "answer 1"]


async def test_only_the_oldest_of_a_conversation_is_due(store: Store) -> None:
    """The next reply of a conversation is offered when the one before it is settled."""
    for n in range(3):
        await store.notify(note(f"n{n}"))
    for n in range(3):
        (reply,) = await store.due(START, 10)
        assert reply.final.text == f"n{n}"
        if n == 1:
            await store.give_up(reply.id, "230002")
        else:
            await store.delivered(reply.id)
    assert await store.due(START, 10) == ()


async def test_a_clock_set_back_does_not_turn_the_order(lab: Lab, store: Store) -> None:
    """What became due first is delivered first, whatever the clock says."""
    await store.notify(note("first"))
    lab.clock.now -= 3600
    await store.notify(note("second"))
    assert await texts_due(store) == ["first"]


async def test_a_running_turn_does_not_hold_notices_back(store: Store) -> None:
    """Notices go out while a turn of the conversation runs; its answer follows."""
    await queued(store, "1")
    claim = await taken(store)
    await store.notify(note("command answer"))
    (reply,) = await store.due(START, 10)
    assert reply.final.text == "command answer"
    await store.settle(claim, answer("answer"))
    assert await texts_due(store) == ["command answer"]
    await store.delivered(reply.id)
    assert await texts_due(store) == ["answer"]


async def test_a_postponed_reply_waits_and_holds_its_conversation(store: Store) -> None:
    """Nothing of the conversation overtakes it; other conversations go on."""
    await store.notify(note("late"))
    await store.notify(note("after"))
    await store.notify(note("elsewhere", THERE))
    assert await store.next_due(START) is None
    (late, _) = await store.due(START, 10)
    await store.postpone(late.id, START + 30, "230020")
    assert await store.next_due(START) == START + 30
    assert await texts_due(store) == ["elsewhere"]
    assert await texts_due(store, START + 29.9) == ["elsewhere"]
    assert await texts_due(store, START + 30) == ["late", "elsewhere"]
    (again, _) = await store.due(START + 30, 10)
    assert again.attempts == 1
    await store.postpone(late.id, START + 90, "230020")
    assert await store.next_due(START) == START + 90
    (again, _) = await store.due(START + 90, 10)
    assert again.attempts == 2
    await store.delivered(late.id)
    assert await store.next_due(START) is None
    assert await texts_due(store) == ["after", "elsewhere"]


async def test_the_next_due_time_lies_ahead(store: Store) -> None:
    """A time that has come is `due`'s matter and hides no later one."""
    for number, place in enumerate((HERE, THERE, Place("cli_app", "oc_third"))):
        await store.notify(note(f"notice {number}", place))
    for wait, reply in zip((10, 20, 30), await store.due(START, 10), strict=True):
        await store.postpone(reply.id, START + wait, "230020")
    assert await store.next_due(START + 9.9) == START + 10
    assert await store.next_due(START + 10) == START + 20
    assert await store.next_due(START + 25) == START + 30
    assert await store.next_due(START + 30) is None


async def test_what_is_settled_stays_settled(lab: Lab) -> None:
    """Delivered and given up replies never come back, whatever is said about them later."""
    store = await lab.open()
    await store.notify(note("sent"))
    await store.notify(note("failed", THERE))
    sent, failed = await store.due(START, 10)
    await store.delivered(sent.id)
    await store.give_up(failed.id, "bot removed")
    for reply in (sent.id, failed.id):
        await store.postpone(reply, START, "late")
        await store.delivered(reply)
    await store.delivered(ReplyId(9999))
    assert await store.next_due(START) is None
    await store.close()
    store = await lab.open()
    assert await store.due(START, 10) == ()
    await store.close()


async def test_an_open_reply_cannot_be_settled(store: Store) -> None:
    """While its turn runs a reply is live, whatever delivery says; then it is due."""
    await queued(store, "1")
    claim = await taken(store)
    await store.delivered(claim.reply)
    await store.give_up(claim.reply, "gone")
    await store.postpone(claim.reply, START + 5, "late")
    assert await store.live(claim.reply) is not None
    assert await store.next_due(START) is None
    await store.settle(claim, answer("answer"))
    assert await texts_due(store) == ["answer"]


async def test_live_knows_open_replies_only(store: Store) -> None:
    """Notices and unknown replies are not live."""
    await store.notify(note("n"))
    (reply,) = await store.due(START, 1)
    assert await store.live(reply.id) is None
    assert await store.live(ReplyId(9999)) is None


async def test_parts_are_saved_by_reply_and_ordinal(store: Store) -> None:
    """A part is inserted, then updated in all its fields; parts come in their order."""
    await queued(store, "1")
    claim = await taken(store)
    second = Part(claim.reply, 1, 3, "card", "b" * 36)
    first = Part(
        claim.reply,
        0,
        1,
        "text",
        "a" * 36,
        CardId("card"),
        MessageId("om_sent"),
        1000,
        START + 0.5,
        "handed_over",
    )
    await store.save_part(second)
    await store.save_part(first)
    reply = await store.live(claim.reply)
    assert reply is not None
    assert reply.parts == (first, second)
    final = replace(first, state="final", reserved=2000)
    await store.save_part(final)
    await store.settle(claim, answer())
    (due,) = await store.due(START, 1)
    assert due.parts == (final, second)


async def test_a_part_needs_its_reply(store: Store) -> None:
    """A part of an unknown reply is an error, and nothing of it is stored."""
    with pytest.raises(StoreError):
        await store.save_part(Part(ReplyId(9999), 0, 0, "text", "k" * 36))


# transcripts


KEY = ("project", "session", "")


async def test_transcripts_come_back_as_they_were(lab: Lab) -> None:
    """Entries are deep-equal and in the order of the calls, also after a restart."""
    store = await lab.open()
    entries: list[dict[str, object]] = [
        {"type": "user", "uuid": "b", "n": 1, "deep": {"a": [1, 2.5, None, True, "多\x00"]}},
        {"type": "assistant", "uuid": "a", "half": "\ud83d", "pair": "\U0001f600"},
    ]
    await store.append(KEY, entries)
    await store.append(KEY, [{"type": "mode"}, {"type": "mode"}])
    await store.close()
    store = await lab.open()
    assert await store.load(KEY) == [*entries, {"type": "mode"}, {"type": "mode"}]
    await store.close()


async def test_an_entry_with_a_uuid_is_stored_once_a_key(store: Store) -> None:
    """Repeats within and across batches are dropped; another key has its own."""
    await store.append(KEY, [{"uuid": "a", "n": 1}, {"uuid": "a", "n": 2}])
    await store.append(KEY, [{"uuid": "a", "n": 3}, {"uuid": "b", "n": 4}])
    other = ("project", "session", "subagents/agent-1")
    await store.append(other, [{"uuid": "a", "n": 5}])
    assert await store.load(KEY) == [{"uuid": "a", "n": 1}, {"uuid": "b", "n": 4}]
    assert await store.load(other) == [{"uuid": "a", "n": 5}]


async def test_unknown_transcripts_are_none(store: Store) -> None:
    """A key that was never written is None, and so is one to which nothing was added."""
    assert await store.load(KEY) is None
    await store.append(KEY, [])
    assert await store.load(KEY) is None


async def test_sessions_are_listed_newest_first(lab: Lab, store: Store) -> None:
    """Main transcripts of the project with the time of their last entry."""
    for session, project in (("s1", "p"), ("s2", "p"), ("s3", "other"), ("s1", "p")):
        lab.clock.now += 1
        await store.append((project, session, ""), [{"n": lab.clock.now}])
    await store.append(("p", "s4", "subagents/agent-1"), [{"n": 1}])
    assert await store.sessions("p") == [("s1", START + 4), ("s2", START + 2)]
    assert await store.sessions("unknown") == []


async def test_subpaths_of_a_session(store: Store) -> None:
    """Subpaths without the main transcript."""
    for key in (KEY, ("project", "session", "b"), ("project", "session", "a")):
        await store.append(key, [{"n": 1}])
    await store.append(("project", "other", "c"), [{"n": 1}])
    assert sorted(await store.subpaths("project", SessionId("session"))) == ["a", "b"]
    assert await store.subpaths("project", SessionId("unknown")) == []


async def test_deleting_transcripts(store: Store) -> None:
    """A subpath goes alone, a main transcript with its subpaths, an unknown key without harm."""
    subs = [("project", "session", name) for name in ("a", "b")]
    others = [("project", "other", ""), ("elsewhere", "session", "")]
    for key in [KEY, *subs, *others]:
        await store.append(key, [{"uuid": "u", "n": 1}])
    await store.delete(("project", "unknown", ""))
    await store.delete(subs[0])
    assert await store.load(subs[0]) is None
    assert await store.load(subs[1]) is not None
    await store.delete(KEY)
    assert [await store.load(key) for key in (KEY, *subs)] == [None, None, None]
    assert await store.subpaths("project", SessionId("session")) == []
    assert all([await store.load(key) is not None for key in others])
    await store.append(KEY, [{"uuid": "u", "n": 2}])
    assert await store.load(KEY) == [{"uuid": "u", "n": 2}]


async def test_a_long_transcript_is_deleted_whole(store: Store) -> None:
    """More entries than one step removes."""
    await store.append(KEY, [{"n": n} for n in range(1700)])
    await store.delete(KEY)
    assert await store.load(KEY) is None


# prune


async def test_prune_removes_what_is_old_and_nothing_undelivered(lab: Lab, store: Store) -> None:
    """Ended and delivered goes; queued, running, due and held stays."""
    places = [Place("a", f"oc_{n}") for n in range(6)]
    done = await queued(store, "done", places[0])
    await store.settle(await taken(store), answer("delivered"))
    await store.delivered((await store.due(START, 1))[0].id)
    await queued(store, "due", places[1])
    await store.settle(await taken(store), answer("undelivered"))
    await queued(store, "running", places[2])
    running = await taken(store)
    await queued(store, "queued", places[3])
    dropped = await queued(store, "dropped", places[4])
    await store.cancel(dropped)
    await store.accept(message("held", places[5]), HELD)
    await store.accept(message("answered", places[5]), ANSWERED)
    await store.notify(note("undelivered notice"))
    await store.keep(Malformed("ev", b"x", "bad"))
    lab.clock.now += 10 * DAY
    removed = await store.prune(Cutoffs(lab.clock.now - DAY, 0))
    assert removed == {"turns": 2, "messages": 3, "replies": 0, "raw_events": 1, "transcripts": 0}
    assert await again(store, done, "key", places[0]) is Again.UNKNOWN
    assert (await store.accept(message("done", places[0]), ANSWERED)).fresh
    assert not (await store.accept(message("due", places[1]), ANSWERED)).fresh
    assert await texts_due(store, lab.clock.now) == ["undelivered", "undelivered notice"]
    assert await store.counts() == QueueCounts(1, 1)
    assert len(await store.held(10)) == 1
    assert await store.live(running.reply) is not None
    assert await store.conversation_count() == 6
    for reply in await store.due(lab.clock.now, 10):
        await store.delivered(reply.id)
    lab.clock.now += 10 * DAY
    removed = await store.prune(Cutoffs(lab.clock.now - DAY, 0))
    assert (removed["turns"], removed["replies"]) == (1, 1)


async def test_young_messages_stay_whatever_the_cutoff_says(lab: Lab, store: Store) -> None:
    """A message id is remembered for eight hours."""
    await store.accept(message("1"), ANSWERED)
    lab.clock.now += 8 * 3600 - 1
    future = Cutoffs(lab.clock.now + DAY, 0)
    assert (await store.prune(future))["messages"] == 0
    assert not (await store.accept(message("1"), ANSWERED)).fresh
    lab.clock.now += 2
    assert (await store.prune(future))["messages"] == 1


async def test_prune_takes_more_than_one_step(lab: Lab, store: Store) -> None:
    """Everything old goes, however much it is."""
    for n in range(1203):
        await store.accept(message(str(n)), ANSWERED)
    lab.clock.now += DAY
    assert (await store.prune(Cutoffs(lab.clock.now, 0)))["messages"] == 1203


async def test_transcripts_are_pruned_by_session(lab: Lab, store: Store) -> None:
    """A session goes when all of it is old: main transcript and subpaths together."""
    await store.append(("p", "old", ""), [{"n": 1}])
    await store.append(("p", "old", "sub"), [{"n": 1}])
    await store.append(("p", "half", ""), [{"n": 1}])
    lab.clock.now += DAY
    await store.append(("p", "half", "sub"), [{"n": 1}])
    removed = await store.prune(Cutoffs(0, lab.clock.now))
    assert removed["transcripts"] == 2
    assert await store.load(("p", "old", "")) is None
    assert await store.load(("p", "half", "")) == [{"n": 1}]


# the whole


async def test_a_working_store_is_writable(store: Store) -> None:
    """Returns, and may be asked again."""
    await store.writable()
    await store.writable()


async def test_a_closed_store_says_so(lab: Lab) -> None:
    """After close every call is a StoreError; closing again is harmless."""
    store = await lab.open()
    await store.close()
    await store.close()
    with pytest.raises(StoreError):
        await store.writable()
    with pytest.raises(StoreError):
        await store.counts()
    with pytest.raises(StoreError):
        await store.accept(message("1"), turn())


async def test_notices_know_their_place(store: Store) -> None:
    """A notice to a place that nobody wrote from is delivered all the same."""
    place = Place("cli_app", "oc_new", "omt_7")
    await store.notify(NewNotice(Target(place), "hello"))
    (reply,) = await store.due(START, 1)
    assert reply.target == Target(place)
    assert await store.conversation_count() == 0
