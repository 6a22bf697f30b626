"""Cards: within the platform's limits, safe, and nothing of a text lost."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from larkline.chats.feishu.cards import (
    CARD_BYTES,
    ELEMENT,
    PAGE_BYTES,
    PLACEHOLDER,
    card_data,
    card_json,
    field_content,
    pages,
    safe_markdown,
    safe_text,
)
from larkline.chats.feishu.markdown import clean, plain_line
from larkline.domain.model import Button, CardView
from larkline.sim.card_schema import check_card, markdown_tables, parse_card

PROSE = st.sampled_from(
    [
        "plain words of an answer",
        "一段没有空格的中文文字，用来检查断行。",
        "<at id=all></at>",
        "a < b & c > d <br> <https://example.org/x>",
        "`<div>` inline and ``a ` b``",
        "![shot](https://example.org/a.png) ![](b.png) ![k](img_v3_ab-c)",
        'quotes " and \\ backslashes',
        "👨‍👩‍👧‍👦 🇨🇳 é",
        "x" * 700,
        "汉" * 900,
        "<" * 300,
    ]
)
TABLE = st.integers(1, 60).map(
    lambda rows: "| name | value |\n|---|:-:|\n" + "".join(f"| r{n} | {n} |\n" for n in range(rows))
)
CODE = st.tuples(st.sampled_from(["```python", "~~~", "````", "- ```sh", "    ```"]), PROSE).map(
    lambda pair: f"{pair[0]}\n{pair[1]}\n\n  indented\n{re.sub('[^`~]', '', pair[0])}"
)
BLOCK = st.one_of(PROSE, TABLE, CODE, st.just(""), st.just("```"), st.text(max_size=40))
DOCUMENT = st.lists(st.tuples(BLOCK, st.integers(1, 12)), max_size=14).map(
    lambda blocks: "\n\n".join("\n".join([block] * times) for block, times in blocks)
)
MANY_TABLES = "\n\n".join(["| a | b |\n|---|---|\n| 1 | 2 |"] * 23)
SIX_TABLES = "\n\n".join(["| a | b |\n|---|---|\n| 1 | 2 |"] * 6)
LONG_CODE = "Look:\n```python\n" + "print('a line of code')\n" * 3000 + "```\nThat is all."
LONG_TABLE = "| key | value |\n|---|---|\n" + "| some key | some longer value |\n" * 3000


def view(text: str, live: bool = False) -> CardView:
    """A card with everything on it."""
    buttons = (Button("🔁 再发送一次", {"do": "again", "key": "k" * 50}),) * 3
    return CardView(text, "状态" * 400, live, text[:300], buttons)


def ink(text: str) -> str:
    """The text without white space, fence lines and repeated table heads."""
    lines = [line for line in clean(text).split("\n") if not re.match(r"[ \t>*+-]*[`~]{3}", line)]
    return "".join("".join(lines).split())


@settings(max_examples=40, deadline=None)
@given(DOCUMENT)
@example(MANY_TABLES)
@example(LONG_CODE)
@example(LONG_TABLE)
@example("<a" * 50_000)
@example('"\\' * 30_000)
@example(LONG_TABLE + "\n" + MANY_TABLES)
@example(f"- ```sh\nwords\n```\n\n```\n\n{SIX_TABLES}")
@example(f"```\n\n    ```\nwords\n```\n\n{SIX_TABLES}")
@example(f"```\n\n```python\nwords\n```\n\n```\n\n{SIX_TABLES}")
@example(SIX_TABLES.rstrip("1 2|\n"))
@example("\n" * 60_000 + "x")
@example("```\n" * 9_000)
def test_every_page_makes_a_card_within_the_limits(text: str) -> None:
    """The platform's own checks accept a card of every page, with all that goes on it."""
    for page in pages(text):
        assert len(json.dumps(safe_markdown(page), ensure_ascii=False).encode()) <= PAGE_BYTES
        for live in (True, False):
            data = card_data(view(page, live))
            assert len(data.encode()) <= CARD_BYTES
            check_card(parse_card(data))


@settings(max_examples=40, deadline=None)
@given(DOCUMENT, st.integers(0, 10_000))
@example(LONG_CODE, 3333)
@example(LONG_TABLE, 5000)
@example(MANY_TABLES, 8123)
def test_pages_before_the_last_never_change(text: str, share: int) -> None:
    """However a text grows, all its pages but the last stay as they were."""
    first = pages(text[: len(text) * share // 10_000])
    assert pages(text)[: len(first) - 1] == first[:-1]


@settings(max_examples=40, deadline=None)
@given(DOCUMENT.filter(lambda text: "|" not in text))
@example(LONG_CODE)
@example("word " * 30_000)
@example("汉字" * 30_000)
def test_nothing_is_lost_between_pages(text: str) -> None:
    """The pages together hold every character of the text, besides space and fences."""
    assert ink("\n".join(pages(text))) == ink(text)


def test_a_cut_table_repeats_its_head_and_loses_no_row() -> None:
    """Each page of a long table begins with the table's head; every row is there once."""
    text = "| key | value |\n|---|---|\n" + "".join(f"| k{n} | v{n} |\n" for n in range(4000))
    made = pages(text)
    assert len(made) > 2
    assert all(page.startswith("| key | value |\n|---|---|\n| k") for page in made)
    rows = [line for page in made for line in page.split("\n")[2:] if line]
    assert rows == [f"| k{n} | v{n} |" for n in range(4000)]


def test_a_cut_code_block_is_closed_and_opened_again() -> None:
    """Every page of a long code block is a whole code block of the same language."""
    made = pages(LONG_CODE)
    assert len(made) > 2
    assert made[0].startswith("Look:\n```python\n")
    assert made[0].endswith("\n```")
    assert all(page.startswith("```python\nprint(") for page in made[1:])
    assert all(page.count("```") == 2 for page in made)
    assert made[-1].endswith("That is all.")


def test_cuts_fall_on_blank_lines_then_lines_then_words() -> None:
    """The nicest place near the page's end is taken."""
    paragraphs = pages(("one paragraph of words\nin two lines\n\n") * 2000)
    assert all(page.rstrip().endswith("in two lines") for page in paragraphs)
    lines = pages("a line of words\n" * 4000)
    assert all(page.rstrip().endswith("words") for page in lines)
    words = pages("word  " * 12_000)
    assert all(page.strip().endswith("word") and page.startswith("word") for page in words)
    family = "👨‍👩‍👧‍👦"
    assert all(set(page.split(family)) == {""} for page in pages(family * 4000))


def test_cuts_never_fall_inside_what_belongs_together() -> None:
    """Wherever a cut falls, no code block is left empty and no table head stands alone."""
    rows = "".join(f"| row {n} | {n} |\n" for n in range(40))
    for shift in range(0, 120, 4):
        filler = "f" * 20 + "\n" + ("a line of filler\n" * 1200) + "g" * shift
        code = f"{filler}\n```python\n" + "print(1234567)\n" * 137 + "```\n\nThe end of it."
        for page in pages(code):
            assert "```python\n```" not in page
            assert page.count("```") % 2 == 0
        for before in (1500, 2120):
            table = f"{filler}\n{'h' * before}\n| k | v |\n|---|---|\n{rows}The end of it."
            for page in pages(table):
                assert page.rstrip().rsplit("\n", 1)[-1] not in ("| k | v |", "|---|---|")
                assert not re.search(r"\|---\|---\|\n(?!\| row)", page)


def test_a_short_line_before_a_giant_one_does_not_waste_a_page() -> None:
    """A line that no page can hold is cut, rather than moved to a page of its own."""
    made = pages("short\n" + "x" * 60_000)
    assert len(made) == 3
    assert all(len(page) > PAGE_BYTES * 0.9 for page in made[:2])


def test_a_sixth_table_is_defused_where_it_can_not_be_cut_off() -> None:
    """Text that was not cut into pages is accepted all the same."""
    check_card(parse_card(card_data(view(SIX_TABLES))))


def test_six_tables_take_two_cards() -> None:
    """A card holds five tables at most; the sixth begins the next card, head first."""
    made = pages(MANY_TABLES)
    assert [page.count("|---|---|") for page in made] == [5, 5, 5, 5, 3]
    assert all(page.startswith("| a | b |") for page in made)
    after_a_cut = pages(LONG_TABLE + "\n" + MANY_TABLES)
    assert all(markdown_tables(page) <= 5 for page in after_a_cut)


def test_a_flood_costs_little() -> None:
    """Two megabytes that grow are paged again in the time of their last page."""
    import time

    text = "some words of a flood that goes on and on\n" * 50_000
    pages(text)
    began = time.perf_counter()
    pages(text + "more")
    assert time.perf_counter() - began < 0.1


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("hi <at id=all></at>", "hi &#60;at id=all>&#60;/at>"),
        ("<font color='red'>x</font>", "&#60;font color='red'>x&#60;/font>"),
        ("<!-- x --><script>", "&#60;!-- x -->&#60;script>"),
        ("a < b, 1 <2, x<-y", "a < b, 1 <2, x<-y"),
        ("one<br>two<br/>", "one<br>two<br/>"),
        ("see <https://example.org/a?b=1>.", "see <https://example.org/a?b=1>."),
        ("`<div>` and <div>", "`<div>` and &#60;div>"),
        ("``a ` <b>`` <b>", "``a ` <b>`` &#60;b>"),
        ("` <at id=all></at>", "` &#60;at id=all>&#60;/at>"),
        ("`<at id=all></at>`", "`<\u2060at id=all><\u2060/at>`"),
        ("```\n<b>\n```\n<b>", "```\n<b>\n```\n&#60;b>"),
        ("```\n<at id=1>", "```\n<\u2060at id=1>\n```"),
        ("![a](https://e.org/x.png)", "[a](https://e.org/x.png)"),
        ("![](https://e.org/x.png)", "[🖼](https://e.org/x.png)"),
        ("![a](img_v3_02ab-c_d)", "![a](img_v3_02ab-c_d)"),
        ("![a\nb](x)", "[a\nb](x)"),
        ("a\x00b\x1b[31mc\x1b[0m\r\nd\u202ee\ud800", "abc\nde\ufffd"),
        ("```py\nprint(1)", "```py\nprint(1)\n```"),
        ("~~~\n```\nx", "~~~\n```\nx\n~~~"),
    ],
)
def test_markdown_is_made_safe(given_text: str, shown: str) -> None:
    """Nothing a model writes mentions, colours or embeds; code and links stay."""
    assert safe_markdown(given_text) == shown


@settings(max_examples=40, deadline=None)
@given(DOCUMENT)
def test_safe_markdown_is_settled_at_once_and_mentions_nobody(text: str) -> None:
    """Making safe twice is making safe once, and no mention tag is left anywhere."""
    safe = safe_markdown(text)
    assert safe_markdown(safe) == safe
    assert not re.search(r"<\s*/?at\b", safe, re.IGNORECASE)


def test_hostile_lines_do_not_make_patterns_slow() -> None:
    """Lines built to make patterns backtrack are handled within a moment."""
    import time

    bad = ["| a |", "-" + " " * 20_000 + "x", " " * 20_000 + "-x", "![" * 10_000, "`a ``b " * 3000]
    bad += ["> " * 10_000 + "```x`", "|-" * 10_000 + "x", "<http://" * 3000, "<br" + " " * 20_000]
    began = time.perf_counter()
    for line in bad:
        safe_markdown(f"| a |\n{line}\n{line}")
        pages(f"| a |\n{line}\n{line}")
    assert time.perf_counter() - began < 2


def test_text_messages_mention_nobody() -> None:
    """A plain text message keeps its words and loses the power to call people."""
    assert safe_text('<at user_id="all">x</at> a<b') == ('<\u2060at user_id="all">x<\u2060/at> a<b')


def test_a_live_card_streams_and_shows_placeholders() -> None:
    """An empty live card is valid: both elements are there and none is empty."""
    card = card_json(CardView("", "", live=True, summary=""))
    assert card["schema"] == "2.0"
    config, body = card["config"], card["body"]
    assert isinstance(config, dict)
    assert isinstance(body, dict)
    assert config["streaming_mode"] is True
    assert config["update_multi"] is True
    assert config["summary"] == {"content": PLACEHOLDER}
    shown = {element["element_id"]: element["content"] for element in body["elements"]}
    assert shown == {ELEMENT["text"]: PLACEHOLDER, ELEMENT["status"]: PLACEHOLDER}


def test_a_finished_card_has_buttons_that_call_back() -> None:
    """A button carries its value in a callback; a card that is done does not stream."""
    card = card_json(CardView("x", "", False, "x", (Button("Again", {"do": "again"}),)))
    config, body = card["config"], card["body"]
    assert isinstance(config, dict)
    assert isinstance(body, dict)
    assert config["streaming_mode"] is False
    assert body["elements"][1]["behaviors"] == [{"type": "callback", "value": {"do": "again"}}]


def test_fields_are_never_empty() -> None:
    """What is streamed into a field is never empty, and a status is one bounded line."""
    assert field_content("\x00\n") == PLACEHOLDER
    assert field_content("a\nb" * 500, "status").count("\n") == 0
    assert len(field_content("y" * 5000, "status")) <= 300


def test_the_preview_is_one_plain_line() -> None:
    """Previews show the first words without Markdown's marks."""
    assert plain_line("\n---\n# **Done**: `x`\nmore", 50) == "Done : x"
    assert plain_line("a" * 80, 10) == "a" * 9 + "…"
