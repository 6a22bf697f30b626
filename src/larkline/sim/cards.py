"""Card entities (CardKit): their content, streaming mode, sequence and history."""

from __future__ import annotations

import copy
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from larkline.sim.card_schema import (
    CARD_BYTES,
    CONTENT_CHARS,
    check_card,
    elements_of,
    parse_card,
)
from larkline.sim.clock import SimClock, Timer
from larkline.sim.refusal import Refusal, card_refused
from larkline.sim.variants import Variants

Json = dict[str, Any]

STREAMING_SECONDS = 600.0
ENTITY_SECONDS = 14 * 86400.0
UUID_SECONDS = 3600.0
REVISIONS_KEPT = 5000


@dataclass(frozen=True, slots=True)
class Revision:
    """One visible change: when (Unix seconds), through which call, and the main text then."""

    at: float
    via: str
    sequence: int
    text: str
    streaming: bool


@dataclass(slots=True)
class Card:
    """One card entity; `stream_until` is 0 while streaming mode is off."""

    card_id: str
    app_id: str
    body: Json
    created: float
    sequence: int = 0
    message_id: str = ""
    stream_until: float = 0.0
    timed_out: bool = False
    revisions: deque[Revision] = field(default_factory=lambda: deque(maxlen=REVISIONS_KEPT))
    uuids: dict[str, float] = field(default_factory=dict)
    timer: Timer | None = None

    @property
    def streaming(self) -> bool:
        """Whether streaming mode is on."""
        return self.stream_until > 0

    def element(self, element_id: str) -> Json | None:
        """The element of that id, wherever it stands."""
        every = elements_of(self.body["body"])
        return next((e for e in every if e.get("element_id") == element_id), None)

    def text(self) -> str:
        """All Markdown of the card, one element below the other."""
        parts = (e.get("content", "") for e in elements_of(self.body["body"]))
        return "\n".join(p for p in parts if isinstance(p, str) and p)


class Cards:
    """All card entities; `changed` is called with the id of each that looks different now."""

    def __init__(self, clock: SimClock, variants: Variants, changed: Callable[[str], None]) -> None:
        self.all: dict[str, Card] = {}
        self._clock = clock
        self._variants = variants
        self._changed = changed

    def create(self, app_id: str, data: object) -> Card:
        """A new entity from a JSON string.

        Raises:
            Refusal: the card is not acceptable.
        """
        body = self._direct(lambda: parse_card(data))
        self._multi(body)
        card_id = str(7_400_000_000_000_000_000 + len(self.all) + 1)
        card = Card(card_id, app_id, body, self._clock.now())
        self.all[card_id] = card
        self._follow_mode(card)
        self._record(card, "create")
        return card

    def find(self, card_id: str, app_id: str) -> Card:
        """The app's entity.

        Raises:
            Refusal: unknown, someone else's, or older than 14 days.
        """
        card = self.all.get(card_id)
        if card is None:
            raise self._refuse(300301, "card id not found")
        if card.app_id != app_id:
            raise self._refuse(300311, "no permission for this card")
        if self._clock.now() - card.created > ENTITY_SECONDS:
            raise self._refuse(200750, "card expired")
        return card

    def begin(self, card: Card, sequence: object, uuid: object) -> bool:
        """Check a change's `sequence` and `uuid`; false when it was applied before.

        Raises:
            Refusal: 300317 when the sequence does not grow, 200770 in that variant.
        """
        if isinstance(uuid, str) and uuid:
            known = card.uuids.get(uuid)
            if known is not None and self._clock.now() - known < UUID_SECONDS:
                if self._variants.cardkit_uuid == "conflict":
                    raise self._refuse(200770, "uuid conflict")
                return False
        if isinstance(sequence, bool) or not isinstance(sequence, int):
            raise Refusal(9499, "Bad Request: sequence should be an int")
        if sequence <= card.sequence or sequence < 1:
            raise self._refuse(300317, "sequence number compare failed")
        return True

    def commit(self, card: Card, via: str, sequence: int, uuid: object) -> None:
        """Note that a change was applied."""
        card.sequence = sequence
        if isinstance(uuid, str) and uuid:
            card.uuids[uuid] = self._clock.now()
        self._record(card, via)

    def replace(self, card: Card, data: object) -> None:
        """Give the card a new content; works whether or not it streams.

        Raises:
            Refusal: the card is not acceptable.
        """
        body = self._direct(lambda: parse_card(data))
        self._multi(body)
        card.body = body
        self._follow_mode(card)

    def settings(self, card: Card, text: object) -> None:
        """Merge `{"config": {...}}` into the card; may open or close streaming mode.

        Raises:
            Refusal: not JSON, or not settings.
        """
        settings = self.parse(text, dict)
        config = settings.get("config")
        if not isinstance(config, dict):
            raise self._refuse(200621, "settings without config")
        merged = {**card.body.get("config", {}), **config}
        self._multi({"config": merged})
        card.body["config"] = merged
        if "streaming_mode" in config:
            self._follow_mode(card)

    def stream_content(self, card: Card, element_id: str, content: object) -> None:
        """Replace the text of one element while streaming.

        Raises:
            Refusal: streaming is off (200850 once after the ten minutes, then 300309), the
                element is unknown (300313) or has no text, the text is empty or too long.
        """
        if not isinstance(content, str):
            raise Refusal(9499, "Bad Request: content should be a string")
        if not content:
            raise Refusal(99992402, "field validation failed: content is required")
        if card.timed_out:
            card.timed_out = False
            raise self._refuse(200850, "card streaming timeout")
        if not card.streaming:
            raise self._refuse(300309, "streaming mode is closed")
        element = card.element(element_id)
        if element is None:
            raise self._refuse(300313, "element id not found")
        if element["tag"] not in ("markdown", "plain_text", "lark_md"):
            raise self._refuse(300315, "element has no text content")
        if len(content) > CONTENT_CHARS:
            raise self._refuse(300312, "content too long")

        def change(body: Json) -> None:
            target = next(e for e in elements_of(body) if e.get("element_id") == element_id)
            target["content"] = content

        self.edit(card, change, deep=False)

    def edit(self, card: Card, change: Callable[[Json], None], *, deep: bool = True) -> None:
        """Apply `change` to a copy of the card's body and keep it when it is acceptable.

        Raises:
            Refusal: the outcome is not acceptable; the card stays as it was.
        """
        trial = copy.deepcopy(card.body)
        change(trial["body"])
        self._direct(lambda: check_card(trial))
        if deep and len(json.dumps(trial, ensure_ascii=False).encode()) > CARD_BYTES:
            raise Refusal(230025, "The length of the card reaches its limit, ext=card")
        card.body = trial

    def parse(self, text: object, kind: type[Any]) -> Any:
        """The JSON value in a string field.

        Raises:
            Refusal: no string, no JSON, or another kind of value.
        """
        if not isinstance(text, str):
            raise Refusal(9499, "Bad Request: a JSON string was expected")
        try:
            value = json.loads(text)
        except ValueError as exc:
            raise self._refuse(200621, "parse card json err") from exc
        if not isinstance(value, kind):
            raise self._refuse(200621, f"{kind.__name__} expected")
        return value

    def missing(self, element_id: str) -> Refusal:
        """The answer for an element that is not there."""
        return self._refuse(300313, f"element id {element_id} not found")

    def send(self, card: Card, message_id: str) -> None:
        """Bind the entity to the one message that shows it.

        Raises:
            Refusal: it was sent before.
        """
        if card.message_id:
            raise card_refused(200220, "card entity was sent already")
        card.message_id = message_id

    def _record(self, card: Card, via: str) -> None:
        card.revisions.append(
            Revision(self._clock.now(), via, card.sequence, card.text(), card.streaming)
        )
        self._changed(card.card_id)

    def _follow_mode(self, card: Card) -> None:
        """Open or close streaming as the card's config says; opening starts ten minutes."""
        if card.timer is not None:
            card.timer.cancel()
            card.timer = None
        card.timed_out = False
        if not card.body.get("config", {}).get("streaming_mode"):
            card.stream_until = 0.0
            return
        card.stream_until = self._clock.now() + STREAMING_SECONDS
        card.timer = self._clock.call_later(STREAMING_SECONDS, lambda: self._time_out(card))

    def _time_out(self, card: Card) -> None:
        card.timer = None
        card.stream_until = 0.0
        card.timed_out = True
        card.body.setdefault("config", {})["streaming_mode"] = False
        self._record(card, "timeout")

    def _multi(self, body: Json) -> None:
        if body.get("config", {}).get("update_multi") is False:
            raise self._refuse(200610, "update_multi must not be false")

    def _refuse(self, code: int, msg: str) -> Refusal:
        return Refusal(code, msg, self._variants.cardkit_error_status)

    def _direct(self, parse: Callable[[], Any]) -> Any:
        """Run a content check; its refusals look as CardKit's own, by variant."""
        try:
            return parse()
        except Refusal as refusal:
            refusal.status = self._variants.cardkit_error_status
            if refusal.code == 230099 and self._variants.cardkit_refusal == "direct":
                refusal.code = int(refusal.msg.split("ErrCode: ")[1].split(";")[0])
            raise
