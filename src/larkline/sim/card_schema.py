"""What the platform accepts as a card: schema 2.0 and its limits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from larkline.sim.refusal import Refusal, card_refused, invalid_field

Json = dict[str, Any]

CARD_BYTES = 30 * 1024
TEXT_BYTES = 150 * 1024
CONTENT_CHARS = 100_000
MAX_TABLES = 5
MAX_ELEMENTS = 200
ELEMENT_ID = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,19}\Z")
_TAGS_WORDS = """
markdown div hr img img_combination column_set column collapsible_panel form input
button overflow select_static multi_select_static select_person multi_select_person
select_img date_picker picker_time picker_datetime checker table chart person
person_list audio interactive_container plain_text lark_md standard_icon custom_icon
text_tag
"""
TAGS = frozenset(_TAGS_WORDS.split())
_PARTS = frozenset(("plain_text", "lark_md", "standard_icon", "custom_icon", "text_tag"))
# A row of dashes under a row of pipes makes a Markdown table.
_RULE = re.compile(r"^\s{0,3}\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)+\|?\s*$")
_FENCE = re.compile(r"^\s{0,3}(`{3,}|~{3,})")


def markdown_tables(text: str) -> int:
    """How many tables the text draws; what stands in code blocks does not count."""
    tables, fence, before = 0, "", ""
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if mark is not None:
            if not fence:
                fence = mark[1]
            elif mark[1][0] == fence[0] and len(mark[1]) >= len(fence):
                fence = ""
        elif "|" in before and _RULE.match(line):
            tables += 1
        # Nothing in a code block can be the head of a table.
        before = "" if fence else line
    return tables


def elements_of(node: object) -> Iterator[Json]:
    """Every element below `node` (a card's body, an element, a list), outermost first."""
    if isinstance(node, list):
        for entry in node:
            yield from elements_of(entry)
    elif isinstance(node, dict):
        if isinstance(node.get("tag"), str):
            yield node
        for key, value in node.items():
            if key in ("elements", "columns", "header", "body") or key == "text":
                yield from elements_of(value)


def parse_card(text: object, *, limit_bytes: int = CARD_BYTES) -> Json:
    """The card in a JSON string, checked.

    Raises:
        Refusal: 230099 with the reason's number, or 230025 when it is too big.
    """
    if not isinstance(text, str):
        raise invalid_field("data", "data should be a string")
    if len(text.encode()) > limit_bytes:
        raise Refusal(230025, "The length of the message content reaches its limit, ext=card")
    try:
        card = json.loads(text)
    except ValueError as exc:
        raise card_refused(200621, "parse card json err") from exc
    if not isinstance(card, dict):
        raise card_refused(200621, "card is no object")
    check_card(card)
    return card


def check_card(card: Json) -> None:
    """Refuse what the platform refuses.

    Raises:
        Refusal: 230099 with the reason's number; 300305 for too many elements.
    """
    if card.get("schema") != "2.0":
        raise card_refused(200861, "only schema 2.0 is supported here")
    body = card.get("body")
    if not isinstance(body, dict) or not isinstance(body.get("elements"), list):
        raise card_refused(200621, "body.elements is missing")
    if "config" in card and not isinstance(card["config"], dict):
        raise card_refused(200621, "config is no object")
    check_elements(body["elements"])


def check_elements(elements: list[Any]) -> None:
    """Refuse unknown tags, bad or repeated ids, too many elements or tables.

    Raises:
        Refusal: as `check_card`.
    """
    seen: set[str] = set()
    tables = count = 0
    for element in elements:
        if not isinstance(element, dict) or not isinstance(element.get("tag"), str):
            raise card_refused(200621, "an element without tag")
    for element in elements_of(elements):
        tag = element["tag"]
        count += tag not in _PARTS
        if tag not in TAGS:
            raise card_refused(200861, f"unsupported tag {tag} of card schema V2")
        name = element.get("element_id")
        if name is not None:
            if not isinstance(name, str) or not ELEMENT_ID.match(name):
                raise card_refused(300301, f"element_id {name!r} is not allowed")
            if name in seen:
                raise card_refused(300301, f"element_id {name} is repeated")
            seen.add(name)
        if tag == "markdown" and not isinstance(element.get("content"), str):
            raise card_refused(200621, "markdown without content")
        if tag == "table":
            tables += 1
        elif tag in ("markdown", "lark_md"):
            tables += markdown_tables(str(element.get("content", "")))
    if count > MAX_ELEMENTS:
        raise card_refused(300305, f"{count} elements, at most {MAX_ELEMENTS}")
    if tables > MAX_TABLES:
        raise card_refused(11310, "card table number over limit")
