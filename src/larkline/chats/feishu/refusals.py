"""What the platform's refusals mean: REST codes as typed errors, connection refusals in words.

Pure. The class follows the business code and never the HTTP status alone: the platform answers
the same refusal with different statuses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from larkline.domain.errors import (
    ChatGone,
    ContentRefused,
    Permanent,
    SequenceStale,
    StreamClosed,
    TargetGone,
    Transient,
)

Refusal = Transient | Permanent

TOKEN_REFUSED = frozenset({99991661, 99991663, 99991671})
"""The tenant token is missing, invalid or malformed: a fresh one may be accepted."""

_RATE_LIMITED = frozenset({99991400, 230020, 11232})
_TARGET_GONE = frozenset({230011, 230110, 231003, 99992354})
_CHAT_GONE = frozenset({230002, 230013, 230029, 230034, 230053, 232009})
"""The bot is out, not available to this person, blocked by them; the person or chat is gone."""
_CONTENT_REFUSED = frozenset(
    {230022, 230025, 230028, 230099, 11310, 200621, 200861, 300305, 230055}
)
_STREAM_CLOSED = frozenset({200850, 300309})
_SEQUENCE_STALE = frozenset({300317})
_BUSY = frozenset({1, 2200, 1000040343})

_WRAPPED = re.compile(r"ErrCode: ?(\d{1,10})")
_MAX_MSG_CHARS = 160
_MAX_WAIT = 3600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A platform's answer that says no. `msg` may quote what we sent: it is cut before use."""

    api: str
    status: int
    code: int
    msg: str
    log_id: str = ""
    reset: str | None = None
    write: bool = False


def refusal(answer: Answer) -> Refusal:
    """The error to raise for an answer whose code is not 0."""
    code = answer.code
    if code == 230099 and (inner := _WRAPPED.search(answer.msg)) is not None:
        code = int(inner[1])
    words = _words(answer, code)
    if answer.status == 429 or code in _RATE_LIMITED:
        return Transient(words, retry_after=_wait(answer.reset))
    if code in _STREAM_CLOSED:
        return StreamClosed(words, code=code)
    if code in _SEQUENCE_STALE:
        return SequenceStale(words, code=code)
    if code in _TARGET_GONE or (code == 230001 and "message_id" in answer.msg):
        return TargetGone(words, code=code)
    if code in _CHAT_GONE or (code == 230001 and "receive_id" in answer.msg):
        return ChatGone(words, code=code)
    if code in _CONTENT_REFUSED or answer.code == 230099:
        return ContentRefused(words, code=code)
    if code in TOKEN_REFUSED:
        return Transient(words, retry_after=5.0)
    if code in _BUSY or answer.status >= 500:
        return Transient(words, unsure=answer.write)
    return Permanent(words, code=code)


def _words(answer: Answer, code: int) -> str:
    shown = f"{code}" if code == answer.code else f"{answer.code}/{code}"
    log_id = f", log id {answer.log_id}" if answer.log_id else ""
    # A refusal of content quotes the content; its number says enough.
    quiet = answer.code in _CONTENT_REFUSED
    msg = "" if quiet or not answer.msg else f": {_cut(answer.msg)}"
    return f"{answer.api} refused with code {shown}{log_id}{msg}"


def redacted(msg: str, secret: str) -> str:
    """A platform's text without our secret, should it quote what we sent."""
    return msg.replace(secret, "***") if secret else msg


def _cut(msg: str) -> str:
    line = "".join(char if char.isprintable() else " " for char in msg)
    return line if len(line) <= _MAX_MSG_CHARS else line[: _MAX_MSG_CHARS - 1] + "…"


def _wait(reset: str | None) -> float:
    """Seconds of `x-ogw-ratelimit-reset`; 1 where it is missing or no sensible number."""
    try:
        seconds = float(reset) if reset is not None else math.nan
    except ValueError:
        return 1.0
    return min(seconds, _MAX_WAIT) if seconds > 0 else 1.0


_ADVICE: Mapping[int, str] = {
    1: "the platform is busy; we keep trying",
    403: "the platform forbids it: enable the bot and long-connection mode in the app's console",
    514: "the app's credentials were not accepted: check feishu.app_id and feishu.app_secret",
    10003: "app id or secret is malformed: check feishu.app_id and feishu.app_secret",
    10014: "app id or secret is wrong: check feishu.app_id and feishu.app_secret",
    1000040343: "the platform has an internal error; we keep trying",
    1000040344: "app id or secret is empty: set feishu.app_id and feishu.app_secret",
    1000040345: "the app secret is wrong: check feishu.app_secret",
    1000040350: "too many connections: stop other processes of this app (50 are allowed)",
    1000040351: "the app belongs to the other platform: set feishu.domain to "
    "https://open.feishu.cn (Feishu) or https://open.larksuite.com (Lark)",
}


def advice(code: int) -> str:
    """What an operator can do about a refused connection or credential; '' if unknown."""
    return _ADVICE.get(code, "")


class ConnectionRefused(Exception):
    """The connection was not granted. The text is for operators: what happened, what to do."""


def endpoint_refused(code: int, msg: str) -> ConnectionRefused:
    """The endpoint answered, and said no."""
    return ConnectionRefused(_said("the endpoint refused", code, msg))


def handshake_refused(status: int, headers: Mapping[str, str]) -> ConnectionRefused:
    """The websocket handshake was refused; the platform says why in headers of its own."""
    code = _integer(headers.get("handshake-status"))
    inner = _integer(headers.get("handshake-autherrcode"))
    msg = headers.get("handshake-msg", "")
    if code is None:
        return ConnectionRefused(f"the handshake was refused with HTTP {status}")
    return ConnectionRefused(_said("the handshake was refused", inner or code, msg))


def _said(what: str, code: int, msg: str) -> str:
    told = advice(code)
    said = f" ({_cut(msg)})" if msg else ""
    return f"{what} with code {code}{said}" + (f": {told}" if told else "")


def _integer(text: str | None) -> int | None:
    try:
        return int(text) if text is not None and len(text) <= 12 else None
    except ValueError:
        return None
