"""The outbox's settings, and what its parts share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from larkline.domain.model import Language
from larkline.policy.pacing import Limits
from larkline.ports import Chat, Deliveries
from larkline.stages.outbox.gate import Gate

Observe = Callable[[str], None]
"""Told what happened, for counting: `delivered`, `postponed`, `gave_up`, `as_text`, `refused`,
`rotated`, `live_refused`, `live_failed`, `found_again`, `failed`."""


@dataclass(frozen=True, slots=True)
class OutboxSettings:
    """Times in seconds.

    `text_gap`, `phase_gap` and `status_gap`: the least time between two refreshes of a card for a
    new text, for a status with other words, and for one with other figures only. `rotate_after`:
    the age at which a live card is replaced; the platform ends streaming at 600. `key_lives`: how
    long a send may be repeated under its key without looking first; the platform says an hour.
    `give_up_after`: a reply that could not be delivered for so long is given up;
    `give_up_refused_after`: one that the platform refuses for a reason that somebody may cure. Its
    conversation waits for it, so this is shorter.
    `call_timeout`: the longest a platform call may take, whatever the chat's own deadlines.
    `longest_backoff`: between two tries of a call that failed; `longest_refused`: of one that was
    refused, which somebody has to cure.
    `at_once`: replies delivered side by side. `sequence_block`: card sequences saved in advance.
    """

    language: Language = "zh"
    text_gap: float = 0.2
    phase_gap: float = 1.0
    status_gap: float = 5.0
    status_handicap: float = 3.0
    rotate_after: float = 540.0
    key_lives: float = 3300.0
    give_up_after: float = 86_400.0
    give_up_refused_after: float = 3600.0
    call_timeout: float = 30.0
    longest_backoff: float = 60.0
    longest_refused: float = 900.0
    at_once: int = 64
    sequence_block: int = 500
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Desk:
    """What every part of the outbox works with."""

    store: Deliveries
    chat: Chat
    settings: OutboxSettings
    gate: Gate
    now: Callable[[], float]
    observe: Observe
    new_key: Callable[[], str]
