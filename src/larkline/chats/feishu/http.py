"""One pooled HTTP session for REST and the long connection, and its failures in plain words."""

from __future__ import annotations

import json
import socket
from typing import Any

import aiohttp

MAX_ANSWER_BYTES = 8 * 1024 * 1024
_POOL = 64
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
_UNSENT_MS = 30_000


def open_session(timeout: float) -> aiohttp.ClientSession:
    """A session without cookies; `timeout` bounds each request. The caller closes it."""
    connector = aiohttp.TCPConnector(
        limit=_POOL, keepalive_timeout=50.0, socket_factory=_kept_alive
    )
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=timeout),
        headers={"User-Agent": "larkline"},
    )
    # aiohttp by itself sends a PUT again whose answer was cut. Ours carry a sequence: the second
    # would be refused as stale although the first was applied. There is no public switch; the
    # contract test of a stream without an answer fails should this one vanish.
    session._retry_connection = False
    return session


async def read_answer(response: aiohttp.ClientResponse) -> bytes:
    """The whole body.

    Raises: aiohttp.ClientPayloadError if it is cut or longer than MAX_ANSWER_BYTES.
    """
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > MAX_ANSWER_BYTES:
            raise aiohttp.ClientPayloadError("answer too long")
    return bytes(data)


def json_object(data: bytes) -> dict[str, Any] | None:
    """The JSON object in `data`; None if there is none."""
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def never_sent(failure: Exception) -> bool:
    """Whether the request surely did not reach the other side."""
    return isinstance(failure, aiohttp.ClientConnectorError | aiohttp.InvalidURL)


def network_words(failure: Exception, seconds: float) -> str:
    """What failed, for operators. Never the text of the exception: it may hold an address's key."""
    if isinstance(failure, aiohttp.ClientConnectorDNSError):
        return f"the name {failure.host} cannot be resolved: check feishu.domain and the DNS"
    if isinstance(failure, aiohttp.ClientConnectorCertificateError):
        return f"the certificate of {failure.host} is not valid: check proxies and the clock"
    if isinstance(failure, aiohttp.ClientConnectorSSLError):
        return f"TLS with {failure.host} failed: check feishu.domain and proxies"
    if isinstance(failure, aiohttp.ClientConnectorError):
        why = failure.os_error.strerror or type(failure.os_error).__name__
        return f"cannot connect to {failure.host}:{failure.port}: {why}"
    if isinstance(failure, TimeoutError):
        return f"no answer within {seconds:g} s"
    if isinstance(failure, aiohttp.InvalidURL | ValueError):
        return "the address is not valid: check feishu.domain"
    return f"the connection was cut ({type(failure).__name__})"


def _kept_alive(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket whose kernel notices a peer that is gone, where the system can."""
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, seconds in _KEEPALIVE:
            if hasattr(socket, name):
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNSENT_MS)
    except OSError:
        made.close()
        raise
    return made
