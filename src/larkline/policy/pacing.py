"""Which platform calls may go now, inside the budgets of the whole app. Pure.

Finals go first, then notices, then new cards, then refreshes; among refreshes the one that has
waited longest. Where the budget is short, everything goes later; nothing is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Literal

Api = Literal["create", "send", "replace", "stream", "list"]


class Rank(IntEnum):
    """What goes first."""

    FINAL = 0
    NOTICE = 1
    OPEN = 2
    REFRESH = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """The platform's budgets as (calls, seconds), of which we use the `share`.

    The refreshing call is smoothed instead: `burst` calls at once and `steady` a second keep both
    windows of an API (30 + 14.5 <= 45 a second, 30 + 60 * 14.5 = 900 a minute) and never stall
    every card for the rest of a minute.
    """

    per_api: tuple[tuple[int, float], ...] = ((45, 1.0), (900, 60.0))
    per_chat: tuple[tuple[int, float], ...] = ((4, 1.0),)
    per_card: tuple[tuple[int, float], ...] = ((9, 1.0),)
    burst: float = 30.0
    steady: float = 14.5


@dataclass(frozen=True, slots=True)
class Call:
    """One platform call, seen by a chat and by a card where they are named.

    `card_calls`: how many operations on the card it may take.
    """

    api: Api
    chat: str = ""
    card: str = ""
    card_calls: int = 1


@dataclass(frozen=True, slots=True)
class Wish:
    """A call that waits. `since`: for a refresh, when its card last changed; else when it was due.

    `handicap`: seconds by which other refreshes go before this one.
    """

    id: int
    call: Call
    rank: Rank
    since: float
    handicap: float = 0.0

    def order(self) -> tuple[int, float, int]:
        """Smaller goes first."""
        return (self.rank, self.since + self.handicap, self.id)


Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Spent:
    """What was used of the budgets. `full_at`: when the smoothed budget will be whole again."""

    calls: Mapping[Key, tuple[float, ...]] = field(default_factory=dict)
    full_at: float = float("-inf")
    held: Mapping[Api, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Granted:
    """The wishes that go now, in order, and when to look again (None: nothing waits)."""

    spent: Spent
    now: tuple[Wish, ...]
    again_at: float | None


def earliest(spent: Spent, call: Call, now: float, limits: Limits) -> float:
    """When the call may go: `now` or later."""
    when = max(now, spent.held.get(call.api, now))
    if call.api == "stream":
        # A bucket as one number: each call moves `full_at` by 1/steady; `burst` may be owed.
        owed = (limits.burst - 1) / limits.steady
        when = max(when, spent.full_at - owed)
    for key, count, windows in _windows(call, limits):
        past = spent.calls.get(key, ())
        for most, seconds in windows:
            over = len(past) + count - most
            if over > 0 and past:
                when = max(when, past[min(over, len(past)) - 1] + seconds)
    return when


def spend(spent: Spent, call: Call, now: float, limits: Limits) -> Spent:
    """The state after the call has gone."""
    full_at = spent.full_at
    if call.api == "stream":
        full_at = max(full_at, now) + 1 / limits.steady
    calls = dict(spent.calls)
    for key, count, windows in _windows(call, limits):
        longest = max(seconds for _, seconds in windows)
        kept = [past for past in calls.get(key, ()) if past + longest > now]
        calls[key] = (*kept, *([now] * count))
    if len(calls) > 2000:
        calls = {key: past for key, past in calls.items() if past[-1] + 60 > now}
    return replace(spent, calls=calls, full_at=full_at)


def hold(spent: Spent, api: Api, until: float) -> Spent:
    """The platform said to wait: nothing of that API goes before."""
    held = {**spent.held, api: max(until, spent.held.get(api, until))}
    return replace(spent, held=held)


def grant(spent: Spent, wishes: Iterable[Wish], now: float, limits: Limits) -> Granted:
    """Let go what may go now, the most urgent first.

    A wish that has to wait does not stop others whose budgets have room.
    """
    going: list[Wish] = []
    again: float | None = None
    full_apis: set[Api] = set()
    full_places: set[Key] = set()
    for wish in sorted(wishes, key=Wish.order):
        call = wish.call
        if call.api in full_apis or ("chat", call.chat) in full_places:
            continue
        if ("card", call.card) in full_places:
            continue
        when = earliest(spent, call, now, limits)
        if when <= now:
            spent = spend(spent, call, now, limits)
            going.append(wish)
            continue
        again = when if again is None else min(again, when)
        # Whatever the first in line waits for is not taken from under it by those behind; a
        # card's or a chat's own limit holds only what is of that card or chat.
        if earliest(spent, Call(call.api), now, limits) > now:
            full_apis.add(call.api)
        else:
            full_places.update(key for key in (("chat", call.chat), ("card", call.card)) if key[1])
    return Granted(spent, tuple(going), again)


def _windows(call: Call, limits: Limits) -> list[tuple[Key, int, tuple[tuple[int, float], ...]]]:
    """The logged budgets that the call touches, and how much of each it takes."""
    found: list[tuple[Key, int, tuple[tuple[int, float], ...]]] = []
    if call.api != "stream":
        found.append((("api", call.api), 1, limits.per_api))
    if call.chat:
        found.append((("chat", call.chat), 1, limits.per_chat))
    if call.card:
        found.append((("card", call.card), call.card_calls, limits.per_card))
    return found
