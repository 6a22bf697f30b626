"""The platform's REST calls: one pooled session, one token, errors typed by code.

No pacing here: who calls keeps the platform's budgets; a call over them raises Transient with the
time to wait.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import structlog
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from larkline.chats.feishu.http import json_object, network_words, never_sent, read_answer
from larkline.chats.feishu.refusals import TOKEN_REFUSED, Answer, advice, redacted, refusal
from larkline.chats.feishu.settings import FeishuSettings
from larkline.chats.feishu.token import TenantToken, Token, granted
from larkline.domain.errors import Transient

log = structlog.get_logger()

Observe = Callable[[str, int, float], None]
"""Told of every HTTP exchange: api name, business code (NO_CODE without one), seconds."""

NO_CODE = -1
"""No business code came: time-out, cut, or an answer that is not the platform's."""

MAX_TOKEN_SECONDS = 7200
LIST_PAGE = 50
MAX_LIST_PAGES = 40


def unobserved(api: str, code: int, seconds: float) -> None:
    """Observe nothing."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The bot as the platform knows it."""

    open_id: str
    name: str


@dataclass(frozen=True, slots=True)
class _Exchange:
    status: int
    headers: Mapping[str, str]
    code: int
    body: Mapping[str, Any]


class Api:
    """The calls larkline makes. Who makes it owns the session and closes it.

    Every call raises Transient (unsure if a write may have taken effect) or a kind of Permanent,
    and has a deadline.
    """

    def __init__(
        self,
        settings: FeishuSettings,
        session: aiohttp.ClientSession,
        observe: Observe = unobserved,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._session = session
        self._observe = observe
        self._clock = clock
        self._token = TenantToken(self._fetch_token, clock)

    async def identity(self) -> Identity:
        """Who our bot is."""
        body = await self._call("bot.info", "GET", "/bot/v3/info")
        bot = body.get("bot")
        open_id = bot.get("open_id") if isinstance(bot, dict) else None
        if not isinstance(open_id, str) or not open_id:
            raise Transient("bot.info gave no open_id: enable the bot in the app's console")
        name = bot.get("app_name") if isinstance(bot, dict) else None
        return Identity(open_id, name if isinstance(name, str) else "")

    async def scopes(self) -> dict[str, bool]:
        """The scopes the app asks for, and whether each is granted."""
        data = await self._data("app.scopes", "GET", "/application/v6/scopes")
        found = data.get("scopes")
        return {
            scope["scope_name"]: scope.get("grant_status") == 1
            for scope in (found if isinstance(found, list) else ())
            if isinstance(scope, dict) and isinstance(scope.get("scope_name"), str)
        }

    async def create_card(self, card: Mapping[str, object]) -> str:
        """A new card entity's id."""
        body = {"type": "card_json", "data": _json(card)}
        data = await self._data("cardkit.card.create", "POST", "/cardkit/v1/cards", body=body)
        return _required(data, "card_id", "cardkit.card.create")

    async def update_card(self, card: str, content: Mapping[str, object], sequence: int) -> None:
        """Replace the whole card."""
        body = {"card": {"type": "card_json", "data": _json(content)}, "sequence": sequence}
        await self._call("cardkit.card.update", "PUT", _path("/cardkit/v1/cards", card), body=body)

    async def set_streaming(self, card: str, on: bool, sequence: int) -> None:
        """Switch the streaming mode."""
        settings = _json({"config": {"streaming_mode": on}})
        path = _path("/cardkit/v1/cards", card, "settings")
        body = {"settings": settings, "sequence": sequence}
        await self._call("cardkit.card.settings", "PATCH", path, body=body)

    async def set_content(self, card: str, element: str, text: str, sequence: int) -> None:
        """Set the text of one element of a streaming card."""
        path = _path("/cardkit/v1/cards", card, "elements", element, "content")
        body = {"content": text, "sequence": sequence}
        await self._call("cardkit.element.content", "PUT", path, body=body)

    async def create_message(self, chat: str, kind: str, content: str, uuid: str) -> str:
        """Send a loose message; its id."""
        body = {"receive_id": chat, "msg_type": kind, "content": content, "uuid": uuid}
        query = {"receive_id_type": "chat_id"}
        name = "im.message.create"
        return _required(
            await self._data(name, "POST", "/im/v1/messages", query=query, body=body),
            "message_id",
            name,
        )

    async def reply(
        self, to: str, kind: str, content: str, uuid: str, *, in_thread: bool = False
    ) -> str:
        """Answer a message; the answer's id."""
        body: dict[str, object] = {"msg_type": kind, "content": content, "uuid": uuid}
        if in_thread:
            body["reply_in_thread"] = True
        name = "im.message.reply"
        data = await self._data(name, "POST", _path("/im/v1/messages", to, "reply"), body=body)
        return _required(data, "message_id", name)

    async def messages(
        self, container: str, *, thread: bool, since: float
    ) -> tuple[Mapping[str, Any], ...]:
        """The messages of a chat, or of a thread, since then, newest first, as they came.

        Raises also: Transient if there are more than MAX_LIST_PAGES pages of them.
        """
        query = {
            "container_id_type": "thread" if thread else "chat",
            "container_id": container,
            "sort_type": "ByCreateTimeDesc",
            "page_size": str(LIST_PAGE),
        }
        if not thread:  # The platform takes no time range for threads.
            query["start_time"] = str(int(since))
        found: list[Mapping[str, Any]] = []
        for _ in range(MAX_LIST_PAGES):
            data = await self._data("im.message.list", "GET", "/im/v1/messages", query=query)
            items = data.get("items")
            page = [item for item in items or () if isinstance(item, dict)]
            recent = [item for item in page if message_time(item) >= since]
            found += recent
            token = data.get("page_token")
            if not data.get("has_more") or not token or len(recent) < len(page):
                return tuple(found)
            query["page_token"] = str(token)
        raise Transient(f"im.message.list: more than {len(found)} messages since then")

    async def _data(
        self,
        api: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> Mapping[str, Any]:
        answer = await self._call(api, method, path, query=query, body=body)
        data = answer.get("data")
        return data if isinstance(data, dict) else {}

    async def _call(
        self,
        api: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> Mapping[str, Any]:
        """The answer's body; a refused token is replaced once."""
        address = f"/open-apis{path}" + (f"?{urlencode(query)}" if query else "")
        token = await self._token.current()
        done = await self._exchange(api, method, address, body, token)
        if done.code in TOKEN_REFUSED:
            log.info("token refused, fetching a new one", api=api, code=done.code)
            token = await self._token.instead_of(token)
            done = await self._exchange(api, method, address, body, token)
        if done.code != 0:
            raise refusal(self._answer(api, done, write=method != "GET"))
        return done.body

    async def _exchange(
        self,
        api: str,
        method: str,
        address: str,
        body: Mapping[str, object] | None,
        token: Token | None,
    ) -> _Exchange:
        """One HTTP request. Raises: Transient if no answer of the platform came."""
        write = method != "GET" and token is not None
        headers = {"Content-Type": "application/json; charset=utf-8"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token.secret}"
        began = self._clock()
        code = NO_CODE
        try:
            async with self._session.request(
                method,
                URL(self._settings.base_url + address, encoded=True),
                # A lone surrogate has no UTF-8 form: it must not cost the whole message.
                data=None if body is None else _json(body).encode("utf-8", "replace"),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=self._settings.bounds.call),
                allow_redirects=False,
            ) as response:
                parsed = json_object(await read_answer(response))
                found = parsed.get("code") if parsed is not None else None
                if parsed is None or isinstance(found, bool) or not isinstance(found, int):
                    raise _not_the_platform(api, response.status, response.headers, write)
                code = found
                return _Exchange(response.status, response.headers, code, parsed)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            words = network_words(exc, self._settings.bounds.call)
            unsure = write and not never_sent(exc)
            raise Transient(f"{api}: {words}", unsure=unsure) from exc
        finally:
            self._observe(api, code, self._clock() - began)

    async def _fetch_token(self) -> Token:
        """A new token. A refusal is Transient too: it must not cost the answers that wait."""
        api = "auth.token"
        body = {"app_id": self._settings.app_id, "app_secret": self._settings.app_secret}
        path = "/open-apis/auth/v3/tenant_access_token/internal"
        began = self._clock()
        done = await self._exchange(api, "POST", path, body, None)
        if done.code != 0:
            error = refusal(self._answer(api, done, write=False))
            wait = error.retry_after if isinstance(error, Transient) else None
            told = advice(done.code)
            words = f"{error}; {told}" if told else str(error)
            raise Transient(words, retry_after=wait or 10.0) from error
        secret, seconds = done.body.get("tenant_access_token"), done.body.get("expire")
        if not isinstance(secret, str) or not secret or not isinstance(seconds, int | float):
            raise Transient(f"{api}: an answer without a token", retry_after=10.0)
        return granted(secret, float(max(0.0, min(seconds, MAX_TOKEN_SECONDS))), began)

    def _answer(self, api: str, done: _Exchange, *, write: bool) -> Answer:
        error, msg = done.body.get("error"), done.body.get("msg")
        inner = error.get("log_id") if isinstance(error, dict) else None
        log_id = done.headers.get("x-tt-logid") or inner or ""
        return Answer(
            api=api,
            status=done.status,
            code=done.code,
            msg=redacted(msg, self._settings.app_secret) if isinstance(msg, str) else "",
            log_id=str(log_id)[:64],
            reset=done.headers.get("x-ogw-ratelimit-reset"),
            write=write,
        )


def message_time(item: Mapping[str, Any]) -> float:
    """Unix seconds of a listed message; 0 if it has none."""
    value = item.get("create_time")
    text = str(value) if isinstance(value, str | int) else ""
    return int(text) / 1000 if text.isascii() and text.isdigit() and len(text) <= 16 else 0.0


def _not_the_platform(
    api: str, status: int, headers: CIMultiDictProxy[str] | CIMultiDict[str], write: bool
) -> Transient:
    """An answer without a business code: a proxy's page, an empty body, a gateway's error."""
    words = f"{api}: HTTP {status} without the platform's JSON: check feishu.domain and proxies"
    if status == 429:
        answer = Answer(api, 429, NO_CODE, "", reset=headers.get("x-ogw-ratelimit-reset"))
        limited = refusal(answer)
        return Transient(words, retry_after=getattr(limited, "retry_after", None))
    return Transient(words, unsure=write and not 300 <= status < 500)


def _required(data: Mapping[str, Any], name: str, api: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value:
        raise Transient(f"{api}: an answer without {name}", unsure=True)
    return value


def _path(root: str, *parts: str) -> str:
    return "/".join((root, *(quote(part, safe="") for part in parts)))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
