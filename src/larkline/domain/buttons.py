"""What our buttons carry, and how a click on one is read back."""

from __future__ import annotations

from collections.abc import Mapping

from larkline.domain.model import TurnId

# 18 digits fit the integers of every database.
_MOST_DIGITS = 18


def again(turn: TurnId) -> Mapping[str, str]:
    """The value of the button that sends a turn again."""
    return {"do": "again", "turn": str(turn)}


def asked_again(value: Mapping[str, object] | str) -> TurnId | None:
    """The turn that a click asks to send again; None for any other value."""
    if isinstance(value, str) or value.get("do") != "again":
        return None
    number = value.get("turn")
    if not isinstance(number, str) or not number.isascii() or not number.isdigit():
        return None
    return TurnId(int(number)) if len(number) <= _MOST_DIGITS else None
