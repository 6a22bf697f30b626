"""The live side of a running turn's reply: a card that is there at once and follows the answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import structlog

from larkline.domain.errors import ContentRefused, LarklineError, Permanent, StreamClosed, Transient
from larkline.domain.model import CardView, Part, ReplyId
from larkline.policy.pacing import Rank
from larkline.ports import CardField
from larkline.stages.outbox.post import Post
from larkline.stages.outbox.settings import Desk, OutboxSettings
from larkline.texts import text

log = structlog.get_logger()
T = TypeVar("T")

Look = Callable[[], CardView]
"""How the answer looks now; its text is the whole answer."""


_TEXTS_PER_STATUS = 8


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the live card shows, and when that was set (loop time).

    `texts` counts the text refreshes since the status was shown, `failures` those in a row.
    """

    text: str
    status: str
    opened_at: float
    refreshed_at: float
    text_at: float = float("-inf")
    texts: int = 0
    failures: int = 0

    def status_due_at(self, status: str, settings: OutboxSettings) -> float:
        """When a new status may be shown: sooner if it says something else than the time."""
        other_words = _words(status) != _words(self.status)
        return self.refreshed_at + (settings.phase_gap if other_words else settings.status_gap)


class LiveReply:
    """Follows one answer until `close`; the newest look wins, whatever lies between is skipped.

    Never fails: where the platform refuses, the live view ends and the final does without it.
    """

    def __init__(
        self, desk: Desk, reply: ReplyId, look: Look, before: LiveReply | None = None
    ) -> None:
        """`before` followed the same reply and may still be at its last call."""
        self._desk = desk
        self._before = before
        self._reply = reply
        self._look = look
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._cut: tuple[str, tuple[str, ...]] = ("", ("",))
        self.post: Post | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        """Show the card, in a task of the group."""
        self._task = group.create_task(self._run(), name=f"live reply {self._reply}")

    def revised(self) -> None:
        """The answer looks different now; never blocks."""
        self._changed.set()

    def close(self) -> None:
        """Stop following. A platform call under way is finished first: see `finished`."""
        if self._task is not None:
            self._task.cancel()

    async def finished(self) -> None:
        """Returns when no call is under way any more and all its results are saved."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            await self._follow()
        except ContentRefused as exc:
            self._desk.observe("live_refused")
            log.warning("card refused; the final does without", reply=self._reply, error=str(exc))
        except LarklineError as exc:
            self._desk.observe("live_failed")
            log.warning("live view ended", reply=self._reply, error=str(exc))
        except Exception:
            # A boundary: one card's fault must not end the stage; the final is still delivered.
            self._desk.observe("live_failed")
            log.exception("live view failed", reply=self._reply)
        finally:
            # The answer's draft may be large, and a reply that is never settled keeps us.
            self._look = _nothing
            self._cut = ("", ("",))

    async def _follow(self) -> None:
        if self._before is not None:
            await self._before.finished()
            self._before = None
        reply = await self._desk.store.live(self._reply)
        if reply is None:
            return
        post = Post(self._desk, reply.id, reply.target, reply.parts)
        self.post = post
        part = max(reply.parts, key=lambda each: each.ordinal, default=None)
        if part is None:
            part = post.new_part(0, "card")
        if part.form == "text" or part.state == "final":
            return
        part, shown = await self._open(post, part)
        while True:
            part, shown = await self._step(post, part, shown)

    async def _open(self, post: Post, part: Part) -> tuple[Part, _Shown]:
        """Make and send the part's card, with whatever the answer has by then."""
        opened_at, text_shown, status_shown = _clock(), "", ""
        if part.card is not None and part.message is not None:
            # Taken over from an earlier process: nobody knows how old its streaming is.
            return part, _Shown("", "", opened_at - self._desk.settings.rotate_after, opened_at)
        try:
            if part.card is None:
                part, view = await self._patiently(lambda: self._create(post, part))
                opened_at, text_shown, status_shown = _clock(), view.text, view.status
            number = part.ordinal
            part = await self._patiently(lambda: post.send(post.parts[number], Rank.OPEN))
        except Permanent:
            # Refused for good: the final shows this page as text.
            known = post.parts[part.ordinal]
            await post.save(replace(known, form="text", card=None, send_began=None))
            raise
        return part, _Shown(text_shown, status_shown, opened_at, _clock())

    async def _create(self, post: Post, part: Part) -> tuple[Part, CardView]:
        view = self._page(part.page)
        return await post.create(part, view, Rank.OPEN), view

    async def _step(self, post: Post, part: Part, shown: _Shown) -> tuple[Part, _Shown]:
        """One refresh, one rotation, one new page, or one wait."""
        settings = self._desk.settings
        self._changed.clear()
        view = self._look()
        pages = self._pages(view.text)
        now, rotate_at = _clock(), shown.opened_at + settings.rotate_after
        if now >= rotate_at:
            return await self._rotate(post, part)
        if part.page < len(pages) - 1:
            return await self._turn_page(post, part, pages[part.page])
        page = pages[part.page] if part.page < len(pages) else ""
        if page != shown.text:
            due_at, waits_for_news = shown.text_at + settings.text_gap, False
        elif view.status != shown.status:
            due_at, waits_for_news = shown.status_due_at(view.status, settings), True
        else:
            due_at, waits_for_news = rotate_at, True
        if now < due_at:
            await self._wait(min(due_at, rotate_at), for_news=waits_for_news)
            return part, shown
        try:
            return await self._refresh(post, part, shown, status_only=page == shown.text)
        except StreamClosed:
            log.info("card stopped streaming; a new one follows", reply=self._reply)
            return await self._rotate(post, part)

    async def _refresh(
        self, post: Post, part: Part, shown: _Shown, *, status_only: bool
    ) -> tuple[Part, _Shown]:
        """Stream what is newest: the text if it changed, else the status."""

        def newest() -> tuple[CardField, str]:
            view = self._page(part.page)
            # Text that never pauses would leave the status as it was: now and then it gives way.
            overdue = view.status != shown.status and shown.texts >= _TEXTS_PER_STATUS
            if view.text == shown.text or overdue:
                return "status", view.status
            return "text", view.text

        handicap = self._desk.settings.status_handicap if status_only else 0.0
        since = shown.refreshed_at
        try:
            part, field, said = await post.stream(part, newest, since=since, handicap=handicap)
        except Transient as exc:
            failures = shown.failures + 1
            await self._back_off(exc, failures)
            return post.parts[part.ordinal], replace(shown, failures=failures)
        now = _clock()
        if field == "status":
            return part, replace(shown, status=said, refreshed_at=now, texts=0, failures=0)
        texts = shown.texts + 1
        return part, replace(
            shown, text=said, text_at=now, refreshed_at=now, texts=texts, failures=0
        )

    async def _rotate(self, post: Post, part: Part) -> tuple[Part, _Shown]:
        """A new card takes the page over; the old one points to it."""
        self._desk.observe("rotated")
        successor = post.new_part(part.page, "card")
        try:
            fresh, shown = await self._open(post, successor)
        except Permanent:
            # The old card keeps the page: the final writes to it.
            refused = post.parts[successor.ordinal]
            await post.save(replace(refused, form="card", state="handed_over"))
            raise
        pointer = self._still(text(self._desk.settings.language, "card.continued"))
        await self._retire(post, part, pointer, "handed_over")
        return fresh, shown

    async def _turn_page(self, post: Post, part: Part, page: str) -> tuple[Part, _Shown]:
        """The full page stays as it is; a new card goes on."""
        status = text(self._desk.settings.language, "card.continued")
        await self._retire(post, part, replace(self._still(page), status=status), "live")
        return await self._open(post, post.new_part(part.page + 1, "card"))

    async def _retire(
        self, post: Post, part: Part, view: CardView, state: Literal["live", "handed_over"]
    ) -> None:
        """End the streaming of a card. Where that fails the final sets it right."""
        try:
            part = await self._patiently(lambda: post.replace(part, view, Rank.OPEN), tries=3)
        except (Permanent, Transient) as exc:
            log.warning("full card can't be closed", reply=self._reply, error=str(exc))
            return
        if state == "handed_over":
            await post.save(replace(part, state="handed_over"))

    def _page(self, number: int) -> CardView:
        """The live view of one page; empty if the answer has become shorter."""
        view = self._look()
        pages = self._pages(view.text)
        return replace(view, text=pages[number] if number < len(pages) else "", live=True)

    def _pages(self, whole: str) -> tuple[str, ...]:
        """The pages of the answer; it is asked for several times between two changes."""
        if self._cut[0] != whole:
            self._cut = (whole, self._desk.chat.pages(whole))
        return self._cut[1]

    def _still(self, shown: str) -> CardView:
        return CardView(shown, "", live=False, summary=self._look().summary)

    async def _wait(self, until: float, *, for_news: bool) -> None:
        left = max(0.0, until - _clock())
        if not for_news:
            await asyncio.sleep(left)
            return
        try:
            async with asyncio.timeout(left):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _patiently(self, step: Callable[[], Awaitable[T]], *, tries: int | None = None) -> T:
        """Repeat a step while its failure may pass, for ever or so many times."""
        failures = 0
        while True:
            try:
                return await step()
            except Transient as exc:
                failures += 1
                if failures == tries:
                    raise
                await self._back_off(exc, failures)

    async def _back_off(self, exc: Transient, failures: int) -> None:
        log.info("platform call to be repeated", reply=self._reply, error=str(exc))
        await asyncio.sleep(backoff(failures, exc.retry_after, self._desk.settings.longest_backoff))


def _nothing() -> CardView:
    return CardView("", "", live=False, summary="")


def backoff(failures: int, retry_after: float | None, longest: float) -> float:
    """Seconds to wait after so many failures in a row: what the platform says, or 1, 2, 4 ..."""
    return float(min(longest, 2.0 ** min(failures - 1, 10))) if retry_after is None else retry_after


def _words(status: str) -> str:
    return re.sub(r"[\d:]+", "", status)


def _clock() -> float:
    return asyncio.get_running_loop().time()
