"""How the platform says no: a business code, a text and an HTTP status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Refusal(Exception):
    """A refused call; `status` is the HTTP status, `headers` go out with the answer."""

    code: int
    msg: str
    status: int = 400
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Mapping[str, Any] = field(default_factory=dict)


def invalid_field(name: str, description: str) -> Refusal:
    """99992402: a field failed validation."""
    violation = {"field": name, "description": description}
    return Refusal(99992402, "field validation failed", error={"field_violations": [violation]})


def card_refused(number: int, text: str) -> Refusal:
    """230099: a card's content was refused, for the reason `number`."""
    return Refusal(
        230099, f"Failed to create card content, ext=ErrCode: {number}; ErrMsg: {text}; "
    )
