"""Pacing: the platform never refuses, finals go first, refreshes take turns."""

from __future__ import annotations

import random
from collections import defaultdict, deque

from hypothesis import given
from hypothesis import strategies as st

from larkline.policy.pacing import Call, Limits, Rank, Spent, Wish, earliest, grant, hold, spend

LIMITS = Limits()


class Judge:
    """The platform's limits as exact sliding windows; counts what it would refuse."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str, float], deque[float]] = defaultdict(deque)
        self.refused = 0

    def see(self, call: Call, now: float) -> None:
        """One call arrives."""
        limits: list[tuple[str, str, int, float]] = [
            ("api", call.api, 50, 1.0),
            ("api", call.api, 1000, 60.0),
        ]
        limits += [("chat", call.chat, 5, 1.0)] if call.chat else []
        limits += [("card", call.card, 10, 1.0)] if call.card else []
        for kind, name, most, seconds in limits:
            times = self.seen[(kind, name, seconds)]
            while times and times[0] <= now - seconds + 1e-9:
                times.popleft()
            for _ in range(call.card_calls if kind == "card" else 1):
                times.append(now)
            self.refused += len(times) > most


def test_fifty_live_cards_for_two_minutes() -> None:
    """No refusal, every card refreshed at least every 4 s, finals within a second."""
    cards = 50
    chance = random.Random(7)
    judge, spent, now = Judge(), Spent(), 0.0
    refreshed = dict.fromkeys(range(cards), 0.0)
    worst_gap = worst_final = 0.0
    finals: dict[int, Wish] = {}
    final_times = sorted(chance.uniform(5, 115) for _ in range(300)) + [60.0] * 40
    final_times.sort()
    sent: list[tuple[float, Call]] = []
    while now < 120:
        while final_times and final_times[0] <= now:
            due, number = final_times.pop(0), 1000 + len(final_times)
            call = Call("replace", card=f"card{number}", card_calls=2)
            if number % 3 == 0:
                call = Call("send", chat=f"chat{number}")
            finals[number] = Wish(number, call, Rank.FINAL, due)
        wishes = [
            Wish(n, Call("stream", card=f"card{n}"), Rank.REFRESH, since)
            for n, since in refreshed.items()
            if since + 0.2 <= now
        ]
        answer = grant(spent, [*wishes, *finals.values()], now, LIMITS)
        spent = answer.spent
        for wish in answer.now:
            sent.append((now + chance.uniform(0.0, 0.02), wish.call))
            if wish.rank == Rank.FINAL:
                worst_final = max(worst_final, now - wish.since)
                del finals[wish.id]
            else:
                worst_gap = max(worst_gap, now - refreshed[wish.id])
                refreshed[wish.id] = now
        nexts = [t + 0.2 for t in refreshed.values() if t + 0.2 > now] + final_times[:1]
        if answer.again_at is not None:
            nexts.append(answer.again_at)
        now = max(now + 0.001, min(nexts))
    for at, call in sorted(sent, key=lambda each: each[0]):
        judge.see(call, at)
    assert judge.refused == 0
    assert worst_gap <= 4.0
    assert worst_final < 1.0
    assert not finals
    assert len(sent) > 120 * 14


def test_the_judge_is_awake() -> None:
    """The simulation's judge refuses what is over the limits."""
    judge = Judge()
    for number in range(51):
        judge.see(Call("stream", card=str(number)), 1.0)
    assert judge.refused == 1


def test_finals_go_first_then_notices_then_new_cards_then_the_longest_waiting() -> None:
    """The order of what waits for the same budget."""
    wishes = [
        Wish(1, Call("send", chat="a"), Rank.REFRESH, since=5.0),
        Wish(2, Call("send", chat="b"), Rank.REFRESH, since=1.0, handicap=3.0),
        Wish(3, Call("send", chat="c"), Rank.OPEN, since=9.0),
        Wish(4, Call("send", chat="d"), Rank.NOTICE, since=9.0),
        Wish(5, Call("send", chat="e"), Rank.FINAL, since=9.0),
    ]
    assert [wish.id for wish in grant(Spent(), wishes, 10.0, LIMITS).now] == [5, 4, 3, 2, 1]


def test_a_full_chat_holds_nobody_else() -> None:
    """One busy chat waits for its own second; other chats go on."""
    wishes = [Wish(n, Call("send", chat="busy"), Rank.FINAL, 0.0) for n in range(6)]
    wishes.append(Wish(9, Call("send", chat="calm"), Rank.NOTICE, 0.0))
    answer = grant(Spent(), wishes, 0.0, LIMITS)
    assert [wish.id for wish in answer.now] == [0, 1, 2, 3, 9]
    assert answer.again_at == 1.0


def test_a_waiting_final_is_not_overtaken_on_its_own_card() -> None:
    """A refresh does not take the room on a card that its final waits for."""
    spent = Spent()
    for _ in range(8):
        spent = spend(spent, Call("stream", card="c"), 0.0, LIMITS)
    final = Wish(1, Call("replace", card="c", card_calls=2), Rank.FINAL, 0.0)
    refresh = Wish(2, Call("stream", card="c"), Rank.REFRESH, 0.0)
    other = Wish(3, Call("stream", card="d"), Rank.REFRESH, 0.0)
    answer = grant(spent, [refresh, other, final], 0.1, LIMITS)
    assert [wish.id for wish in answer.now] == [3]
    assert answer.again_at == 1.0


def test_bursts_stay_under_every_limit() -> None:
    """A hundred sends, or twenty changes of one card, wanted at once, are spread as allowed."""
    for calls in (
        [Call("send", chat=f"chat{n}") for n in range(100)],
        [Call("replace", card="one", card_calls=2) for _ in range(20)],
    ):
        judge, spent, now = Judge(), Spent(), 0.0
        waiting = [Wish(n, call, Rank.FINAL, 0.0) for n, call in enumerate(calls)]
        while waiting:
            answer = grant(spent, waiting, now, LIMITS)
            spent = answer.spent
            for wish in answer.now:
                waiting.remove(wish)
                judge.see(wish.call, now)
            now = max(answer.again_at or now, now + 1e-6)
        assert judge.refused == 0
        assert now < 6


def test_an_api_on_hold_waits_for_the_platforms_time() -> None:
    """What the platform asked to wait for is waited for, and other APIs go on."""
    spent = hold(hold(Spent(), "stream", 7.0), "stream", 3.0)
    assert earliest(spent, Call("stream"), 1.0, LIMITS) == 7.0
    assert earliest(spent, Call("send"), 1.0, LIMITS) == 1.0
    assert earliest(spent, Call("stream"), 8.0, LIMITS) == 8.0


def test_nothing_waits_means_nothing_to_look_at_again() -> None:
    """Without wishes there is no deadline."""
    assert grant(Spent(), [], 1.0, LIMITS).again_at is None


def test_state_stays_small() -> None:
    """Chats and cards of the past are forgotten."""
    spent = Spent()
    for number in range(5000):
        call = Call("send", chat=f"chat{number}")
        spent = spend(spent, call, number * 10.0, LIMITS)
    assert len(spent.calls) < 2100


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["stream", "send", "replace"]), st.integers(0, 3), st.floats(0, 0.3)
        ),
        max_size=200,
    )
)
def test_what_is_granted_is_never_over_a_limit(asked: list[tuple[str, int, float]]) -> None:
    """Whatever is asked for and when, the exact judge has nothing to refuse."""
    judge, spent, now = Judge(), Spent(), 0.0
    waiting: list[Wish] = []
    for number, (api, place, pause) in enumerate(asked):
        now += pause
        call = Call("send", chat=str(place))
        if api == "stream":
            call = Call("stream", card=str(place))
        elif api == "replace":
            call = Call("replace", card=str(place), card_calls=2)
        waiting.append(Wish(number, call, Rank(number % 4), now))
        answer = grant(spent, waiting, now, LIMITS)
        spent = answer.spent
        for wish in answer.now:
            waiting.remove(wish)
            judge.see(wish.call, now)
    while waiting:
        answer = grant(spent, waiting, now, LIMITS)
        spent = answer.spent
        for wish in answer.now:
            waiting.remove(wish)
            judge.see(wish.call, now)
        now = max(answer.again_at or now, now + 1e-6)
    assert judge.refused == 0
