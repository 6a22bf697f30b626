"""Delivering one due reply: every part shows its page, and is remembered once it does.

A part's form changes at most twice: card, text, one line of ours. Each form has a key of its own,
derived from the one before and saved before it is used, so that every later try goes on with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import structlog

from larkline.domain.errors import ChatGone, ContentRefused, Permanent, TargetGone
from larkline.domain.model import CardView, Part, Reply
from larkline.policy.pacing import Rank
from larkline.stages.outbox.post import Post
from larkline.stages.outbox.settings import Desk
from larkline.texts import text

log = structlog.get_logger()

_AS_TEXT = "-t"
# Names the refusal's code: the line must be known again when it is looked up after a restart.
_REFUSED = re.compile(r"-r(\d+)(?:-l)?$")
_SUMMARY_CHARS = 100


async def deliver(desk: Desk, reply: Reply, parts: Iterable[Part]) -> None:
    """Show a reply's final form, in order of its pages; what was done before is not done again.

    `parts` are the newest known ones. Returns when everything is shown and saved.

    Raises: Transient (try again later), ChatGone, ContentRefused (every form is refused), another
    Permanent (somebody has to cure it).
    """
    post = Post(desk, reply.id, reply.target, parts)
    pages = desk.chat.pages(reply.final.text)
    rank = Rank.NOTICE if reply.turn is None else Rank.FINAL
    shown_as_card = any(part.card is not None for part in post.parts.values())
    as_card = reply.final.as_card or shown_as_card
    mine: set[int] = set()
    for number, page in enumerate(pages):
        part = _owner(post, number) or post.new_part(number, "card" if as_card else "text")
        mine.add(part.ordinal)
        if part.state == "final":
            continue
        if not as_card:
            part = replace(part, form="text")
        view = _view(desk, reply, page, last=number == len(pages) - 1)
        await _show(desk, post, part, view, rank)
    for part in list(post.parts.values()):
        if part.ordinal not in mine and part.state == "live":
            await _point_away(desk, post, part, rank)


def _owner(post: Post, page: int) -> Part | None:
    """The part that shows a page: the newest one that anybody may have seen, else the newest."""
    those = [part for part in post.parts.values() if part.page == page]
    those = [part for part in those if part.state != "handed_over"]
    return max(those, key=lambda each: (each.send_began is not None, each.ordinal), default=None)


def _view(desk: Desk, reply: Reply, page: str, *, last: bool) -> CardView:
    final = reply.final
    lines = (line.strip() for line in final.text[:4000].splitlines())
    summary = next((line for line in lines if line), "")[:_SUMMARY_CHARS]
    if last:
        return CardView(page, final.status, live=False, summary=summary, buttons=final.buttons)
    going_on = text(desk.settings.language, "card.continued")
    return CardView(page, going_on, live=False, summary=summary)


async def _show(desk: Desk, post: Post, part: Part, view: CardView, rank: Rank) -> None:
    """Show one page: as a card where the platform takes one, else as text, else say why not."""
    if part.form == "card":
        try:
            await _show_card(post, part, view, rank)
            return
        except (ChatGone, TargetGone):
            raise
        except Permanent as exc:
            desk.observe("as_text")
            log.warning(
                "card refused; sending text",
                reply=post.reply,
                card=part.card,
                code=exc.code,
                error=str(exc),
            )
        part = post.parts[part.ordinal]
        if part.card is not None and part.message is not None:
            await _say_see_below(desk, post, part, view, rank)
        part = await _change(post, part, _plain(part.key) + _AS_TEXT)
    if part.message is None:
        part = await _send_text(desk, post, part, view, rank)
    await post.save(replace(part, state="final"))


async def _send_text(desk: Desk, post: Post, part: Part, view: CardView, rank: Rank) -> Part:
    """Send the page as text; where the platform refuses that too, a line that says so."""
    language = desk.settings.language
    refused = _REFUSED.search(part.key)
    if refused is None:
        words = view.text
        if view.buttons:
            words = f"{words.rstrip()}\n\n{text(language, 'card.no_buttons')}"
        try:
            return await post.send(part, rank, text=words)
        except ContentRefused as exc:
            desk.observe("refused")
            log.warning("text refused", reply=post.reply, code=exc.code, error=str(exc))
            code = str(exc.code)
        part = post.parts[part.ordinal]
        part = await _change(post, part, f"{_plain(part.key)}-r{code}")
    else:
        code = refused[1]
    return await post.send(part, rank, text=text(language, "card.refused", code=code))


async def _change(post: Post, part: Part, key: str) -> Part:
    """The part takes another form, of which nothing was sent yet."""
    changed = replace(part, form="text", key=key, message=None, send_began=None)
    return await post.save(changed)


def _plain(key: str) -> str:
    """The key without what other forms added: with all additions it would be too long."""
    return key.removesuffix("-l").removesuffix(_AS_TEXT)


async def _show_card(post: Post, part: Part, view: CardView, rank: Rank) -> None:
    if part.card is None:
        part = await post.create(part, view, rank)
    else:
        part = await post.replace(part, view, rank)
    if part.message is None:
        part = await post.send(part, rank)
    await post.save(replace(part, state="final"))


async def _say_see_below(desk: Desk, post: Post, part: Part, view: CardView, rank: Rank) -> None:
    """The refused card stops streaming and names the text below; buttons stay usable."""
    words = text(desk.settings.language, "card.as_text")
    try:
        await post.replace(part, replace(view, text=words, summary=words), rank)
    except Permanent as exc:
        log.warning("refused card can't be changed", reply=post.reply, error=str(exc))


async def _point_away(desk: Desk, post: Post, part: Part, rank: Rank) -> None:
    """A card that shows nothing of the final says where it went."""
    if part.card is not None:
        words = text(desk.settings.language, "card.moved")
        try:
            part = await post.replace(part, CardView(words, "", live=False, summary=words), rank)
        except Permanent as exc:
            log.warning("surplus card can't be changed", reply=post.reply, error=str(exc))
    await post.save(replace(post.parts[part.ordinal], state="handed_over"))
