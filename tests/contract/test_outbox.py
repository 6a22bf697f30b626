"""The outbox: every answer is shown once, whatever the platform and the process do."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Literal

import pytest
from outbox_world import Answer, SlowChat, World, play, unsure, wall

from larkline.chats.scripted import Method
from larkline.domain.errors import (
    ChatGone,
    ContentRefused,
    LarklineError,
    Permanent,
    SequenceStale,
    StoreError,
    StreamClosed,
    TargetGone,
    Transient,
)
from larkline.domain.model import (
    Button,
    Ending,
    Final,
    MessageId,
    NewNotice,
    Outcome,
    Part,
    Place,
    Reply,
    Target,
    TurnKind,
)
from larkline.stages.outbox import OutboxSettings

LONG = "\n\n".join(f"paragraph {n} of a long answer that takes several cards" for n in range(1400))
REFUSED = ContentRefused("refused", code=230099)


def test_a_card_is_there_at_once_and_grows_to_the_final() -> None:
    """Thinking is visible after two calls, the first text after a third, the final is exact."""

    async def story() -> None:
        async with World() as world:
            claim, answer = await world.claim(), Answer()
            async with world.open(claim, answer) as revised:
                await world.chat.until(lambda: len(world.chat.shown) == 1)
                assert [name for name, _ in world.chat.calls] == ["create_card", "send_card"]
                answer.text = "Hel"
                revised()
                await world.chat.until(lambda: world.texts(claim) == ["Hel"])
                assert [name for name, _ in world.chat.calls][2:] == ["stream"]
                answer.text = "Hello wor"
                revised()
                await world.chat.until(lambda: world.texts(claim) == ["Hello wor"])
            again = Button("Again", {"do": "again"})
            await world.settle(claim, Final("Hello world.", "done", (again,)))
            await world.settled()
            assert world.texts(claim) == ["Hello world."]
            (card,) = world.chat.cards.values()
            assert not card.live
            assert (card.view.status, card.view.buttons) == ("done", (again,))
            assert world.chat.most_together == 1

    play(story())


def test_text_that_is_there_already_comes_with_the_card() -> None:
    """An answer that was quicker than the card needs no third call to be seen."""

    async def story() -> None:
        async with World() as world:
            claim = await world.claim()
            async with world.open(claim, Answer("Quick.")):
                await world.chat.until(lambda: world.texts(claim) == ["Quick."])
                assert world.count("stream") == 0

    play(story())


def test_the_newest_text_wins_and_refreshes_keep_their_distance() -> None:
    """A fast stream is shown at most five times a second, always with the newest text."""

    async def story() -> None:
        async with World() as world:
            claim, answer = await world.claim(), Answer()
            async with world.open(claim, answer) as revised:
                for number in range(500):
                    answer.text += f"{number} "
                    revised()
                    await asyncio.sleep(0.02)
                await world.chat.until(
                    lambda: world.texts(claim)[0].rstrip() == answer.text.rstrip()
                )
            assert 30 <= world.count("stream") <= 55
            assert world.chat.most_together == 1

    play(story())


def test_the_status_moves_while_nothing_is_said() -> None:
    """Elapsed time is refreshed about every five seconds, and no more often."""

    async def story() -> None:
        async with World() as world:
            claim, answer = await world.claim(), Answer("Text.")
            async with world.open(claim, answer) as revised:
                for second in range(60):
                    answer.status = f"Running Bash · {second} s"
                    revised()
                    await asyncio.sleep(1)
            (card,) = world.chat.cards.values()
            assert 9 <= len(card.revisions) <= 13
            assert {each.field for each in card.revisions} == {"status"}

    play(story())


def test_the_status_moves_while_text_streams_without_a_pause() -> None:
    """A flowing text gives way to the status now and then; other words come within a second."""

    async def story() -> None:
        async with World() as world:
            claim, answer = await world.claim(), Answer("")
            async with world.open(claim, answer) as revised:
                for tenth in range(300):
                    answer.text += f"{tenth} "
                    answer.status = f"Answering · {tenth // 10} s"
                    revised()
                    await asyncio.sleep(0.1)
                (card,) = world.chat.cards.values()
                fields = [each.field for each in card.revisions]
                assert 5 <= fields.count("status") <= 20
                assert fields.count("text") > 80
                answer.status = "Running Bash · 30 s"
                revised()
                await asyncio.sleep(1.5)
                assert card.status == "Running Bash · 30 s"

    play(story())


def test_a_reply_that_is_opened_again_goes_on_in_its_own_cards() -> None:
    """A second try of a turn follows the first one's card, after its last call."""

    async def story() -> None:
        async with World() as world:
            claim, answer = await world.claim(), Answer("first try")
            async with world.open(claim, answer):
                await asyncio.sleep(0.07)
            answer.text = "second try"
            async with world.open(claim, answer):
                await world.chat.until(lambda: world.texts(claim)[-1:] == ["second try"], 10)
            await world.settle(claim, Final("done"))
            await world.settled()
            assert world.texts(claim).count("done") == 1
            assert world.chat.most_together == 1
            assert not any(card.live for card in world.chat.cards.values() if card.message)

    play(story())


def test_a_live_card_is_replaced_at_nine_minutes() -> None:
    """Rotation is by timer: also an answer that says nothing moves before the platform's limit."""

    async def story() -> None:
        async with World() as world:
            claim, answer = await world.claim(), Answer("So far.")
            async with world.open(claim, answer) as revised:
                await asyncio.sleep(530)
                assert len(world.chat.cards) == 1
                await asyncio.sleep(20)
                first, second = world.chat.cards.values()
                assert (first.live, second.live) == (False, True)
                assert "next card" in first.text
                assert second.text == "So far."
                answer.text = "So far. And more."
                revised()
                await asyncio.sleep(1)
                assert second.text == "So far. And more."
                await asyncio.sleep(1100)
            await world.settle(claim, Final("All of it."))
            await world.settled()
            texts = world.texts(claim)
            assert texts.count("All of it.") == 1
            assert len(texts) == 4
            assert not any(card.live for card in world.chat.cards.values())
            assert "live_failed" not in world.seen

    play(story())


def test_an_old_card_that_can_not_be_closed_does_not_stop_the_new_one() -> None:
    """After a rotation the new card is kept fresh, whatever becomes of the old one."""

    async def story() -> None:
        async with World() as world:
            claim, answer = await world.claim(), Answer("So far.")
            async with world.open(claim, answer) as revised:
                world.chat.refuse("replace_card", Transient("odd"), times=3)
                await asyncio.sleep(560)
                answer.text = "So far. More."
                revised()
                await asyncio.sleep(1)
                assert world.texts(claim) == ["So far.", "So far. More."]
            await world.settle(claim, Final("All."))
            await world.settled()
            assert world.texts(claim)[1] == "All."
            assert "moved" in world.texts(claim)[0]

    play(story())


@pytest.mark.parametrize("error", [StreamClosed("closed", code=200850), SequenceStale("low")])
def test_a_stream_that_is_refused_goes_on(error: LarklineError) -> None:
    """A closed stream moves to a new card at once; a stale sequence is raised."""

    async def story() -> None:
        async with World() as world:
            claim, answer = await world.claim(), Answer("One")
            async with world.open(claim, answer) as revised:
                await world.chat.until(lambda: world.texts(claim) == ["One"])
                world.chat.refuse("stream", error)
                answer.text = "One two"
                revised()
                await world.chat.until(lambda: "One two" in world.texts(claim), 30)
            await world.settle(claim, Final("One two three"))
            await world.settled()
            assert world.texts(claim)[-1] == "One two three"
            assert world.texts(claim).count("One two three") == 1

    play(story())


def test_a_refused_text_stops_the_live_view_and_the_final_falls_back() -> None:
    """A card that refuses its text stays, says where the answer is, and the text follows once."""

    async def story() -> None:
        async with World() as world:
            claim, answer = await world.claim(), Answer("One")
            async with world.open(claim, answer) as revised:
                await world.chat.until(lambda: world.texts(claim) == ["One"])
                world.chat.refuse("stream", REFUSED)
                answer.text = "One | two"
                revised()
                await asyncio.sleep(5)
                assert world.texts(claim) == ["One"]
                assert world.seen == ["live_refused"]
            world.chat.refuse("replace_card", REFUSED)
            await world.settle(claim, Final("One | two | three"))
            await world.settled()
            assert world.texts(claim)[0].endswith("see the text message below.")
            assert world.texts(claim)[1:] == ["One | two | three"]
            assert world.sent_to(claim)[1].card is None
            assert world.sent_to(claim)[1].key.endswith("-t")

    play(story())


@pytest.mark.parametrize("method", ["create_card", "send_card"])
def test_a_card_refused_from_the_start_becomes_text(method: Method) -> None:
    """Where no card can be shown there is no live view, and the final is a text message."""

    async def story() -> None:
        async with World() as world:
            world.chat.refuse(method, REFUSED)
            claim = await world.claim()
            async with world.open(claim, Answer("x")) as revised:
                revised()
                await asyncio.sleep(3)
            await world.settle(claim, Final("The answer."))
            await world.settled()
            assert world.texts(claim) == ["The answer."]
            assert world.count("send_text") == 1

    play(story())


def test_transient_failures_are_waited_out_with_the_newest_text() -> None:
    """A platform that is down for a while gets the newest text when it is back."""

    async def story() -> None:
        async with World() as world:
            claim, answer = await world.claim(), Answer("a")
            world.chat.refuse("create_card", Transient("down"), times=2)
            world.chat.refuse("send_card", unsure(), times=2, applied=True)
            async with world.open(claim, answer) as revised:
                await world.chat.until(lambda: world.texts(claim) == ["a"], 30)
                world.chat.refuse("stream", Transient("busy", retry_after=3.0), times=3)
                answer.text = "ab"
                revised()
                await asyncio.sleep(4)
                answer.text = "abc"
                revised()
                await world.chat.until(lambda: world.texts(claim) == ["abc"], 60)
            assert len(world.chat.shown) == 1

    play(story())


def test_a_long_answer_takes_several_cards_while_it_grows_and_in_the_end() -> None:
    """Full pages are closed and stay; the final has every page once, buttons on the last."""

    async def story() -> None:
        async with World() as world:
            claim, answer = await world.claim(), Answer()
            async with world.open(claim, answer) as revised:
                for end in range(0, len(LONG), 1500):
                    answer.text = LONG[:end]
                    revised()
                    await asyncio.sleep(0.5)
            final = Final(LONG, "done", (Button("b", {"do": "b"}),))
            await world.settle(claim, final)
            await world.settled()
            pages = list(world.chat.pages(LONG))
            assert len(pages) > 2
            assert world.texts(claim) == pages
            cards = list(world.chat.cards.values())
            assert [len(card.view.buttons) for card in cards] == [0] * (len(pages) - 1) + [1]
            assert not any(card.live for card in cards)

    play(story())


def test_an_answer_that_became_shorter_leaves_no_stale_card() -> None:
    """Cards that the final does not need say so."""

    async def story() -> None:
        async with World() as world:
            claim, answer = await world.claim(), Answer(LONG)
            async with world.open(claim, answer):
                await world.chat.until(lambda: len(world.texts(claim)) == 3, 60)
            await world.settle(claim, Final("Short."))
            await world.settled()
            texts = world.texts(claim)
            assert texts[0] == "Short."
            assert all("moved" in each for each in texts[1:])

    play(story())


def test_a_gone_target_gets_a_loose_message_once() -> None:
    """A recalled question is answered into the chat, under a key derived from the first."""

    async def story() -> None:
        async with World() as world:
            world.chat.refuse("send_card", TargetGone("recalled", code=230011))
            claim = await world.claim()
            async with world.open(claim, Answer("x")):
                await asyncio.sleep(2)
            await world.settle(claim, Final("The answer."))
            await world.settled()
            (shown,) = world.chat.shown
            assert shown.target.reply_to == ""
            assert shown.key.endswith("-l")
            assert world.chat.reader_sees(shown.id) == "The answer."

    play(story())


def test_a_gone_chat_is_given_up_and_others_go_on() -> None:
    """Where nothing can be sent the reply is kept for operators; other chats do not notice."""

    async def story() -> None:
        async with World() as world:
            world.chat.refuse("send_text", ChatGone("out", code=230002))
            lost = await world.claim("oc_gone", TurnKind.NEW)
            await world.settle(lost, Final("lost", as_card=False))
            await world.settled()
            claim = await world.claim("oc_here", TurnKind.NEW)
            await world.settle(claim, Final("here", as_card=False))
            await world.settled()
            assert world.texts(claim) == ["here"]
            assert world.seen == ["gave_up", "delivered"]
            assert world.disk.replies[lost.reply].state == "failed"

    play(story())


def test_a_final_is_tried_until_the_platform_is_back() -> None:
    """A platform that is away for hours gets the answer when it is back, once."""

    async def story() -> None:
        async with World() as world:
            claim = await world.claim(kind=TurnKind.NEW)
            world.chat.refuse("send_text", Transient("down"), times=200)
            await world.settle(claim, Final("late", as_card=False))
            await world.settled(5 * 3600)
            assert world.texts(claim) == ["late"]
            times = [at for name, at in world.chat.calls if name == "send_text"]
            gaps = [round(b - a) for a, b in pairwise(times)]
            assert gaps[:7] == [1, 2, 4, 8, 16, 32, 60]
            assert set(gaps[6:]) == {60}

    play(story())


def test_a_reply_is_given_up_only_after_its_time() -> None:
    """The last resort comes after a day, not before."""

    async def story() -> None:
        async with World() as world:
            claim = await world.claim(kind=TurnKind.NEW)
            world.chat.refuse("send_text", Transient("down", retry_after=600), times=10_000)
            await world.settle(claim, Final("never", as_card=False))
            began = wall()
            await world.settled(3 * 86_400)
            assert 86_400 <= wall() - began <= 87_100
            assert world.disk.replies[claim.reply].state == "failed"

    play(story())


def test_an_unsure_send_of_long_ago_is_looked_up_first() -> None:
    """Beyond the hour of the key the chat is read: what was shown is not shown again."""

    async def story() -> None:
        for kind, applied in ((TurnKind.NEW, True), (TurnKind.PROMPT, True), (TurnKind.NEW, False)):
            async with World() as world:
                claim = await world.claim(kind=kind)
                method: Method = "send_card" if kind is TurnKind.PROMPT else "send_text"
                world.chat.refuse(method, unsure(), applied=applied)
                world.chat.refuse(method, Transient("down", retry_after=4000.0))
                await world.settle(claim, Final("once", as_card=kind is TurnKind.PROMPT))
                await world.settled(3 * 3600)
                assert world.texts(claim) == ["once"]
                assert world.count("sent_since") == 1
                assert ("found_again" in world.seen) is applied

    play(story())


def test_an_answer_is_not_lost_where_the_chat_may_not_be_read() -> None:
    """Without the scope to look it up an unsure send is sent again: rather twice than never."""

    async def story() -> None:
        async with World() as world:
            claim = await world.claim(kind=TurnKind.NEW)
            world.chat.refuse("send_text", unsure(), applied=False)
            world.chat.refuse("send_text", Transient("down", retry_after=4000.0))
            world.chat.refuse("sent_since", Permanent("no scope", code=230027), times=99)
            await world.settle(claim, Final("once", as_card=False))
            await world.settled(3 * 3600)
            assert world.texts(claim) == ["once"]
            assert world.disk.replies[claim.reply].state == "sent"

    play(story())


def test_pages_that_were_delivered_are_not_repeated_hours_later() -> None:
    """A reply of several messages goes on where it stopped, also when the keys have expired."""

    async def story() -> None:
        for as_card in (True, False):
            async with World() as world:
                claim = await world.claim(kind=TurnKind.PROMPT if as_card else TurnKind.NEW)
                pages = list(world.chat.pages(LONG))
                await world.settle(claim, Final(LONG, as_card=as_card))
                await world.chat.until(lambda: len(world.chat.shown) == 2)
                method: Method = "send_card" if as_card else "send_text"
                world.chat.refuse(method, unsure())
                world.chat.refuse(method, Transient("down", retry_after=9000.0))
                await asyncio.sleep(100)
                await world.restart()
                await world.settled(6 * 3600)
                assert world.texts(claim) == pages

    play(story())


def test_a_rotation_that_was_never_seen_leaves_the_answer_where_it_is() -> None:
    """If the successor could not be made, the final goes into the card that people see."""

    async def story() -> None:
        async with World() as world:
            claim, answer = await world.claim(), Answer("So far.")
            async with world.open(claim, answer):
                await asyncio.sleep(500)
                world.chat.refuse("create_card", Transient("down", retry_after=900.0))
                await asyncio.sleep(100)
            await world.settle(claim, Final("All."))
            await world.settled()
            assert world.texts(claim) == ["All."]

    play(story())


def test_notices_keep_their_order_and_are_plain_text() -> None:
    """Notices of one chat arrive in the order they were stored, once each."""

    async def story() -> None:
        async with World() as world:
            target = Target(Place("app", "oc_1"), "om_q")
            for number in range(12):
                await world.store.notify(NewNotice(target, f"notice {number}"))
            world.outbox.wake()
            await world.settled()
            assert [each.text for each in world.chat.shown] == [f"notice {n}" for n in range(12)]
            times = [each.at for each in world.chat.shown]
            assert all(times[n + 5] - times[n] > 1.0 for n in range(7))

    play(story())


def test_finals_wait_for_the_call_under_way_and_never_race() -> None:
    """A final that comes while the card is being made uses that card; nothing is shown twice."""

    async def story() -> None:
        for moment in range(0, 60, 2):
            world = World(chat=SlowChat(latency=0.1))
            async with world:
                claim, answer = await world.claim(), Answer("draft")
                async with world.open(claim, answer) as revised:
                    answer.text = "draft 2"
                    revised()
                    await asyncio.sleep(moment / 100)
                await world.settle(claim, Final("final"))
                await world.settled()
                await asyncio.sleep(3)
                assert world.texts(claim) == ["final"]
                assert world.chat.most_together <= 1
                (card,) = world.chat.cards.values()
                assert not card.live

    play(story())


@pytest.mark.parametrize("length", ["short", "long"])
@pytest.mark.parametrize("ending", ["clean", "abrupt"])
def test_a_restart_at_any_moment_shows_every_answer_once(
    length: Literal["short", "long"], ending: Literal["clean", "abrupt"]
) -> None:
    """Whenever the process ends, the next one shows the final, whole, and not twice."""
    final = "The answer." if length == "short" else LONG

    async def story(step: int) -> bool:
        world = World(chat=SlowChat(latency=0.1))
        async with world:
            claim, answer = await world.claim(), Answer("thinking aloud")
            moment = step * 0.04
            async with world.open(claim, answer) as revised:
                answer.text = final[: len(final) // 2]
                revised()
                await asyncio.sleep(min(moment, 0.6))
                if moment < 0.6:
                    await cut(world, ending)
            await world.settle(claim, Final(final, "done"))
            if moment >= 0.6:
                await asyncio.sleep(moment - 0.6)
                await cut(world, ending)
            done = world.disk.replies[claim.reply].state == "sent"
            world.outbox.wake()
            await world.settled()
            await asyncio.sleep(5)
            pages = list(world.chat.pages(final))
            texts = world.texts(claim)
            assert [text for text in texts if text in pages] == pages, (step, len(texts))
            extra = [text for text in texts if text not in pages]
            assert all("card" in text for text in extra), (step, extra)
            assert world.chat.refused == [], step
            assert len(texts) == len({each.key for each in world.chat.shown})
            return done

    steps = 0
    while not play(story(steps)):
        steps += 1
        assert steps < 200
    assert steps > 15


async def cut(world: World, ending: str) -> None:
    """End the outbox: cleanly, or so that a call under way is applied and nothing more."""
    if ending == "clean":
        await world.restart()
        return
    # What is under way is cut in the middle: the objects of the old process touch nothing more.
    await world.store.close()
    old, world.task = world.task, None
    world.restart_objects()
    world.start()
    await asyncio.sleep(0)
    assert old is not None
    old.cancel()
    await asyncio.wait([old])


def test_errors_of_one_delivery_never_end_the_stage() -> None:
    """A store that fails for a moment, a fault of ours: recorded, tried again, delivered."""

    async def story() -> None:
        async with World() as world:
            real, failures = world.store.save_part, [StoreError("full"), ValueError("bug")]

            async def failing(part: object) -> None:
                if failures:
                    raise failures.pop(0)
                await real(part)  # type: ignore[arg-type]

            world.store.save_part = failing  # type: ignore[method-assign]
            claim = await world.claim(kind=TurnKind.NEW)
            await world.settle(claim, Final("through", as_card=False))
            await world.settled()
            assert world.texts(claim) == ["through"]
            assert world.seen == ["failed", "failed", "postponed", "delivered"]

    play(story())


def test_silence_of_the_platform_is_bounded() -> None:
    """A call that never answers is given up after its time and tried again."""

    async def story() -> None:
        world = World(settings=OutboxSettings(language="en", call_timeout=5.0))
        async with world:
            world.chat.latency = 1e6
            claim = await world.claim(kind=TurnKind.NEW)
            await world.settle(claim, Final("heard", as_card=False))
            await asyncio.sleep(12)
            world.chat.latency = 0.01
            await world.settled()
            assert world.texts(claim) == ["heard"]

    play(story())


def test_drain_delivers_what_is_due_and_is_bounded() -> None:
    """Draining ends when everything is out, or at its time if the platform hangs."""

    async def story() -> None:
        async with World() as world:
            claims = [await world.claim(f"oc_{n}") for n in range(20)]
            for claim in claims:
                await world.settle(claim, Final(f"bye {claim.turn.id}"))
            await world.outbox.drain(30)
            assert all(world.texts(claim) == [f"bye {claim.turn.id}"] for claim in claims)
            world.chat.latency = 1e6
            await world.settle(await world.claim(), Final("stuck"))
            began = wall()
            await world.outbox.drain(3)
            assert 2.9 < wall() - began < 3.1

    play(story())


def test_fifty_cards_at_once_under_the_budgets() -> None:
    """Fifty answers stream for two minutes: no limit is passed, all are fresh, finals quick."""

    async def story() -> None:
        async with World() as world:
            late: list[float] = []

            async def turn(number: int) -> None:
                claim, answer = await world.claim(f"oc_{number}"), Answer()
                async with world.open(claim, answer) as revised:
                    for step in range(1200 + 20 * (number % 5)):
                        answer.text += f"{step} "
                        revised()
                        await asyncio.sleep(0.1)
                settled_at = wall()
                await world.settle(claim, Final(f"final {number}"))
                await world.chat.until(lambda: world.texts(claim) == [f"final {number}"], 10)
                late.append(wall() - settled_at)

            async with asyncio.TaskGroup() as group:
                for number in range(50):
                    group.create_task(turn(number))
            check_budgets(world)
            for card in world.chat.cards.values():
                times = [each.at for each in card.revisions]
                assert max(b - a for a, b in pairwise(times)) <= 4.0
            assert max(late) < 1.5
            assert world.count("stream") > 1500
            assert set(world.seen) == {"delivered"}

    play(story())


def check_budgets(world: World) -> None:
    """The platform's limits as exact windows over everything that was called."""
    for method in ("create_card", "send_card", "stream", "replace_card"):
        times = [at for name, at in world.chat.calls if name == method]
        for most, seconds in ((50, 1.0), (1000, 60.0)):
            for first, last in zip(times, times[most:], strict=False):
                assert last - first > seconds, (method, most)
    for card in world.chat.cards.values():
        times = [each.at for each in card.revisions]
        assert all(b - a > 1.0 for a, b in zip(times, times[10:], strict=False))


def test_a_refusal_that_an_operator_can_cure_is_waited_out() -> None:
    """A missing scope or an unknown code delays an answer: up to a quarter of an hour a time."""

    async def story() -> None:
        async with World() as world:
            claim = await world.claim()
            no_scope = Permanent("scope missing", code=99991672)
            world.chat.refuse("create_card", no_scope)
            world.chat.refuse("send_text", no_scope, times=13)
            await world.settle(claim, Final("The answer."))
            await world.settled(5 * 3600)
            assert world.texts(claim) == ["The answer."]
            times = [at for name, at in world.chat.calls if name == "send_text"]
            gaps = [round(b - a) for a, b in pairwise(times)]
            assert gaps == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]
            assert world.seen == ["as_text", *["postponed"] * 13, "delivered"]

    play(story())


def test_a_refusal_that_nobody_cures_ends_after_an_hour() -> None:
    """The reply is kept for operators then, and the conversation goes on."""

    async def story() -> None:
        async with World() as world:
            world.chat.refuse("send_text", Permanent("odd", code=4711), times=120)
            lost = await world.claim(kind=TurnKind.NEW)
            began = wall()
            await world.settle(lost, Final("lost", as_card=False))
            await world.settled(3 * 86_400)
            assert 3600 <= wall() - began <= 3600 + 950
            assert world.disk.replies[lost.reply].state == "failed"

    play(story())


@pytest.mark.parametrize("first", ["card shown", "card refused", "text"])
def test_an_answer_that_no_form_may_show_says_so(first: str) -> None:
    """Card and text refused for their content: one line tells the code and what to do, once."""

    async def story() -> None:
        async with World() as world:
            claim, answer = await world.claim(), Answer("draft")
            if first == "card shown":
                async with world.open(claim, answer):
                    await world.chat.until(lambda: world.texts(claim) == ["draft"])
                world.chat.refuse("replace_card", REFUSED)
            elif first == "card refused":
                world.chat.refuse("create_card", REFUSED)
            world.chat.refuse("send_text", ContentRefused("sensitive", code=230025))
            await world.settle(claim, Final("The answer.", as_card=first != "text"))
            await world.settled()
            *above, line = world.texts(claim)
            assert "code 230025" in line
            assert "as a file" in line
            assert len(above) == (first == "card shown")
            assert all(each.endswith("see the text message below.") for each in above)
            assert world.sent_to(claim)[-1].key.endswith("-r230025")
            assert world.disk.replies[claim.reply].state == "sent"

    play(story())


def test_an_unsure_line_about_a_refusal_is_looked_up_as_that_line() -> None:
    """Hours and a restart later the line is found in the chat, and nothing is sent again."""

    async def story() -> None:
        async with World() as world:
            world.chat.refuse("create_card", REFUSED)
            world.chat.refuse("send_text", ContentRefused("sensitive", code=230025))
            world.chat.refuse("send_text", unsure(), applied=True)
            world.chat.refuse("send_text", Transient("down", retry_after=4000.0))
            claim = await world.claim()
            await world.settle(claim, Final("The answer."))
            await asyncio.sleep(100)
            await world.restart()
            await world.settled(3 * 3600)
            (line,) = world.texts(claim)
            assert "code 230025" in line
            assert world.seen[-2:] == ["found_again", "delivered"]

    play(story())


def test_keys_of_every_form_fit_the_platform() -> None:
    """Fifty characters hold a key through every change of form, with the longest code."""

    async def story() -> None:
        async with World() as world:
            world.chat.refuse("create_card", REFUSED)
            world.chat.refuse("send_text", TargetGone("recalled"))
            world.chat.refuse("send_text", ContentRefused("sensitive", code=9_999_999_999))
            world.chat.refuse("send_text", TargetGone("recalled"))
            claim = await world.claim()
            await world.settle(claim, Final("The answer."))
            await world.settled()
            (line,) = world.chat.shown
            assert "code 9999999999" in line.text
            assert line.key.endswith("-r9999999999-l")
            assert len(line.key) <= 50

    play(story())


def test_only_a_refused_last_form_is_given_up_at_once() -> None:
    """Where even the line about the refusal is refused, nothing is left to try."""

    async def story() -> None:
        async with World() as world:
            world.chat.refuse("create_card", REFUSED)
            world.chat.refuse("send_text", ContentRefused("sensitive", code=230025), times=2)
            claim = await world.claim()
            await world.settle(claim, Final("The answer."))
            await world.settled()
            assert world.disk.replies[claim.reply].state == "failed"
            assert world.seen == ["as_text", "refused", "gave_up"]

    play(story())


@pytest.mark.parametrize("what", ["notice", "plain", "card", "refused card", "refused text"])
def test_what_was_shown_is_not_shown_again_hours_later(what: str) -> None:
    """A process that ends right after a send: the next one, after the key has died, sends not."""

    async def story() -> None:
        async with World() as world:
            if what == "notice":
                await world.store.notify(NewNotice(Target(Place("app", "oc_1"), "om_q"), "hear!"))
            else:
                claim, final = await world.claim(), Final("hear!", as_card=what != "plain")
                if what.startswith("refused"):
                    world.chat.refuse("create_card", REFUSED, times=99)
                if what == "refused text":
                    sensitive = ContentRefused("sensitive", code=230025)
                    world.chat.refuse("send_text", sensitive)
                await world.store.settle(claim, Outcome(Ending.ANSWERED, final))
            real = world.store.save_part

            async def failing(part: Part) -> None:
                if part.state == "final":
                    raise StoreError("the process ends here")
                await real(part)

            world.store.save_part = failing  # type: ignore[method-assign]
            world.outbox.wake()
            await world.chat.until(lambda: len(world.chat.shown) == 1)
            await asyncio.sleep(1)
            await world.stop()
            await asyncio.sleep(3 * 3600)
            world.restart_objects()
            world.start()
            await world.settled()
            (shown,) = world.chat.shown
            assert ("230025" if what == "refused text" else "hear!") in world.chat.reader_sees(
                shown.id
            )

    play(story())


@pytest.mark.parametrize("as_card", [True, False])
def test_a_text_without_its_buttons_says_what_to_do_instead(as_card: bool) -> None:
    """Words about a button below mislead where a text message can have none."""

    async def story() -> None:
        async with World() as world:
            world.chat.refuse("create_card", REFUSED)
            claim = await world.claim()
            button = Button("Again", {"do": "again"})
            final = Final("Failed. Press the button below.", "failed", (button,), as_card)
            await world.settle(claim, final)
            await world.settled()
            (shown,) = world.texts(claim)
            assert shown.startswith("Failed. Press the button below.\n\n(A text message has no")

    play(story())


def test_a_lost_wake_up_costs_half_a_minute_at_most() -> None:
    """The outbox looks at the store by itself now and then."""

    async def story() -> None:
        async with World() as world:
            claim = await world.claim()
            await asyncio.sleep(100)
            await world.store.settle(claim, Outcome(Ending.ANSWERED, Final("heard")))
            began = wall()
            await world.settled()
            assert world.texts(claim) == ["heard"]
            assert wall() - began < 31

    play(story())


def test_a_delivery_under_way_hides_no_postponed_one() -> None:
    """While one chat hangs, the others' replies are tried again at their own times."""

    class HangsHere(SlowChat):
        async def send_text(self, target: Target, text: str, key: str) -> MessageId:
            if target.place.chat_id == "oc_hangs":
                await asyncio.sleep(20)
            return await super().send_text(target, text, key)

    async def story() -> None:
        async with World(chat=HangsHere()) as world:
            hangs = await world.claim("oc_hangs", TurnKind.NEW)
            late = await world.claim("oc_late", TurnKind.NEW)
            await world.store.settle(hangs, Outcome(Ending.ANSWERED, Final("a", as_card=False)))
            await world.store.settle(late, Outcome(Ending.ANSWERED, Final("b", as_card=False)))
            await world.store.postpone(hangs.reply, wall() + 1, "busy")
            await world.store.postpone(late.reply, wall() + 3, "busy")
            world.outbox.wake()
            began = wall()
            await world.chat.until(lambda: world.texts(late) == ["b"], 60)
            assert wall() - began < 4

    play(story())


def test_a_slow_look_at_the_store_starts_nothing_twice() -> None:
    """A reply whose delivery ended while the store was being read is not delivered again."""

    async def story() -> None:
        async with World() as world:
            real = world.store.due

            async def slow(now: float, limit: int) -> tuple[Reply, ...]:
                found = await real(now, limit)
                await asyncio.sleep(0.3)
                return found

            world.store.due = slow  # type: ignore[method-assign]
            claim = await world.claim(kind=TurnKind.NEW)
            await world.settle(claim, Final("once", as_card=False))
            for _ in range(30):
                world.outbox.wake()
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            for _ in range(30):
                world.outbox.wake()
                await asyncio.sleep(0.1)
            assert world.count("send_text") == 1
            assert world.seen == ["delivered"]

    play(story())
