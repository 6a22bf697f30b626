"""A `CardView` as the platform's card JSON (schema 2.0), within its limits."""

from __future__ import annotations

import json
from typing import Final

from larkline.chats.feishu.markdown import clean, plain_line, safe_markdown, safe_text
from larkline.chats.feishu.paging import PAGE_BYTES, pages
from larkline.domain.model import CardView
from larkline.ports import CardField

__all__ = [
    "CARD_BYTES",
    "ELEMENT",
    "PAGE_BYTES",
    "PLACEHOLDER",
    "card_data",
    "card_json",
    "field_content",
    "pages",
    "safe_markdown",
    "safe_text",
]

CARD_BYTES = 30_000
"""The most that a card's JSON may take; the platform says 30 KB."""

ELEMENT: Final[dict[CardField, str]] = {"text": "answer", "status": "status"}
"""The element that shows a field of a card: what `stream` writes to."""

PLACEHOLDER = "…"
"""Stands for an empty text: the platform refuses empty content."""

_STATUS_CHARS = 300
_SUMMARY_CHARS = 100
_LABEL_CHARS = 40
_VALUE_BYTES = 600
_MAX_BUTTONS = 4


def card_json(view: CardView) -> dict[str, object]:
    """The whole card. `view.text` is one page of `pages`: then the card is within every limit.

    Status and summary are cut to one bounded line, buttons to four.

    Raises:
        ValueError: a button's value is too long (a bug: values are ids of ours).
    """
    elements: list[dict[str, object]] = [
        {"tag": "markdown", "element_id": ELEMENT["text"], "content": field_content(view.text)}
    ]
    if view.status or view.live:
        elements.append(
            {
                "tag": "markdown",
                "element_id": ELEMENT["status"],
                "content": field_content(view.status, "status"),
                "text_size": "notation",
            }
        )
    for number, button in enumerate(view.buttons[:_MAX_BUTTONS]):
        value = dict(button.value)
        if len(json.dumps(value, ensure_ascii=False).encode()) > _VALUE_BYTES:
            raise ValueError(f"the value of button {number} is over {_VALUE_BYTES} bytes")
        elements.append(
            {
                "tag": "button",
                "element_id": f"button_{number}",
                "text": {"tag": "plain_text", "content": button.label[:_LABEL_CHARS]},
                "type": "default",
                "behaviors": [{"type": "callback", "value": value}],
            }
        )
    summary = plain_line(view.summary, _SUMMARY_CHARS) or PLACEHOLDER
    config: dict[str, object] = {
        "streaming_mode": view.live,
        "update_multi": True,
        "summary": {"content": summary},
    }
    if view.live:
        config["streaming_config"] = {
            "print_frequency_ms": {"default": 30},
            "print_step": {"default": 4},
            "print_strategy": "fast",
        }
    return {"schema": "2.0", "config": config, "body": {"elements": elements}}


def card_data(view: CardView) -> str:
    """The card as the string the platform takes; the limits are counted in this form."""
    return json.dumps(card_json(view), ensure_ascii=False, separators=(",", ":"))


def field_content(text: str, field: CardField = "text") -> str:
    """What `stream` sends for a field: safe for the card, never empty."""
    if field == "status":
        line = " ".join(clean(text[: 4 * _STATUS_CHARS]).split())
        text = line if len(line) <= _STATUS_CHARS else line[: _STATUS_CHARS - 1] + "…"
    return safe_markdown(text).strip("\n") or PLACEHOLDER
