"""The CardKit APIs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

from larkline.sim.budgets import Budgets
from larkline.sim.card_schema import elements_of
from larkline.sim.cards import Card, Cards
from larkline.sim.refusal import Refusal, invalid_field
from larkline.sim.rest import Ask, Route, route
from larkline.sim.world import Json, World

_CARDS = "/open-apis/cardkit/v1/cards"
Change = Callable[[Card], None]


class CardApis:
    """Handlers of the cardkit part; `check_fault` may refuse a content."""

    def __init__(
        self, world: World, cards: Cards, budgets: Budgets, check_fault: Callable[[], None]
    ) -> None:
        self._world = world
        self._cards = cards
        self._budgets = budgets
        self._check_fault = check_fault

    def routes(self) -> list[Route]:
        """All of them."""
        write = ("cardkit:card:write",)
        one = _CARDS + "/:card_id"
        element = one + "/elements/:element_id"
        return [
            route("cardkit.card.create", "POST", _CARDS, write, self._create),
            route(
                "cardkit.card.id_convert",
                "POST",
                _CARDS + "/id_convert",
                ("cardkit:card:read",),
                self._convert,
            ),
            route("cardkit.card.update", "PUT", one, write, self._update),
            route("cardkit.card.settings", "PATCH", one + "/settings", write, self._settings),
            route("cardkit.card.batch_update", "POST", one + "/batch_update", write, self._batch),
            route("cardkit.element.create", "POST", one + "/elements", write, self._add),
            route("cardkit.element.update", "PUT", element, write, self._put),
            route("cardkit.element.patch", "PATCH", element, write, self._merge),
            route("cardkit.element.delete", "DELETE", element, write, self._remove),
            route("cardkit.element.content", "PUT", element + "/content", write, self._content),
        ]

    def _create(self, ask: Ask) -> Json:
        if ask.text("type") != "card_json":
            raise invalid_field("type", "only card_json here")
        data = ask.text("data")
        self._check_fault()
        return {"card_id": self._cards.create(ask.app.app_id, data).card_id}

    def _convert(self, ask: Ask) -> Json:
        message = self._world.messages.get(ask.text("message_id"))
        if message is None or message.sender != ask.app.app_id:
            raise Refusal(99992354, "invalid open_message_id")
        if not message.card_id:
            raise Refusal(300301, "the message shows no card entity")
        return {"card_id": message.card_id}

    def _change(self, ask: Ask, via: str, change: Change) -> Json:
        """Judge and apply one operation on a card."""
        card_id = ask.params["card_id"]
        ask.target = card_id
        card = self._cards.find(card_id, ask.app.app_id)
        uuid = ask.body.get("uuid")
        self._budgets.card(card_id)
        if not self._cards.begin(card, ask.body.get("sequence"), uuid):
            return {}
        change(card)
        self._cards.commit(card, via, ask.body["sequence"], uuid)
        return {}

    def _update(self, ask: Ask) -> Json:
        given = ask.body.get("card")
        if not isinstance(given, dict) or given.get("type") != "card_json":
            raise invalid_field("card", "card is required")
        self._check_fault()
        return self._change(ask, "update", lambda c: self._cards.replace(c, given.get("data")))

    def _settings(self, ask: Ask) -> Json:
        text = ask.text("settings")
        return self._change(ask, "settings", lambda card: self._cards.settings(card, text))

    def _content(self, ask: Ask) -> Json:
        element_id, content = ask.params["element_id"], ask.body.get("content")
        return self._change(
            ask, "content", lambda card: self._cards.stream_content(card, element_id, content)
        )

    def _add(self, ask: Ask) -> Json:
        return self._change(ask, "add", lambda card: self._add_to(card, ask.body))

    def _put(self, ask: Ask) -> Json:
        element_id = ask.params["element_id"]
        return self._change(
            ask, "element", lambda card: self._swap(card, element_id, ask.body.get("element"))
        )

    def _merge(self, ask: Ask) -> Json:
        element_id, partial = ask.params["element_id"], ask.body.get("partial_element")
        return self._change(
            ask, "element", lambda card: self._merge_into(card, element_id, partial)
        )

    def _remove(self, ask: Ask) -> Json:
        element_id = ask.params["element_id"]
        return self._change(ask, "delete", lambda card: self._drop(card, [element_id]))

    def _batch(self, ask: Ask) -> Json:
        actions = self._cards.parse(ask.body.get("actions"), list)
        self._check_fault()

        def change(card: Card) -> None:
            before = copy.deepcopy(card.body)
            try:
                for action in actions:
                    self._act(card, action)
            except Refusal:
                card.body = before
                raise

        return self._change(ask, "batch", change)

    def _act(self, card: Card, action: object) -> None:
        if not isinstance(action, dict) or not isinstance(action.get("params"), dict):
            raise invalid_field("actions", "action and params are required")
        params = action["params"]
        kind = action.get("action")
        if kind == "partial_update_setting":
            self._cards.settings(card, _as_text(params.get("settings")))
        elif kind == "add_elements":
            self._add_to(card, params)
        elif kind == "delete_elements":
            self._drop(card, [str(name) for name in params.get("element_ids", [])])
        elif kind == "update_element":
            self._swap(card, str(params.get("element_id")), _as_text(params.get("element")))
        elif kind == "partial_update_element":
            partial = _as_text(params.get("partial_element"))
            self._merge_into(card, str(params.get("element_id")), partial)
        else:
            raise invalid_field("actions", f"unknown action {kind}")

    def _add_to(self, card: Card, given: Json) -> None:
        elements = self._cards.parse(_as_text(given.get("elements")), list)
        kind, target = given.get("type"), given.get("target_element_id")
        if kind not in ("insert_before", "insert_after", "append"):
            raise invalid_field("type", "insert_before, insert_after or append")

        def change(body: Json) -> None:
            if not target:
                if kind == "append":
                    body["elements"].extend(elements)
                    return
                raise invalid_field("target_element_id", "target_element_id is required")
            if kind == "append":
                inner = self._inside(body, str(target)).setdefault("elements", [])
                inner.extend(elements)
                return
            home, index = self._place(body, str(target))
            at = index + (kind == "insert_after")
            home[at:at] = elements

        self._cards.edit(card, change)

    def _swap(self, card: Card, element_id: str, text: object) -> None:
        element = self._cards.parse(text, dict)

        def change(body: Json) -> None:
            home, index = self._place(body, element_id)
            home[index] = element

        self._cards.edit(card, change)

    def _merge_into(self, card: Card, element_id: str, text: object) -> None:
        partial = self._cards.parse(text, dict)
        self._cards.edit(card, lambda body: self._inside(body, element_id).update(partial))

    def _drop(self, card: Card, element_ids: list[str]) -> None:
        def change(body: Json) -> None:
            for element_id in element_ids:
                home, index = self._place(body, element_id)
                del home[index]

        self._cards.edit(card, change)

    def _inside(self, body: Json, element_id: str) -> Json:
        home, index = self._place(body, element_id)
        found: Json = home[index]
        return found

    def _place(self, body: Json, element_id: str) -> tuple[list[Json], int]:
        """The list that holds the element, and where."""
        for holder in ({"tag": "body", **body}, *elements_of(body)):
            for key in ("elements", "columns"):
                home = holder.get(key)
                if not isinstance(home, list):
                    continue
                for index, element in enumerate(home):
                    if isinstance(element, dict) and element.get("element_id") == element_id:
                        return home, index
        raise self._cards.missing(element_id)


def _as_text(value: object) -> object:
    """Batch params come as objects or as JSON strings; make strings of both."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
