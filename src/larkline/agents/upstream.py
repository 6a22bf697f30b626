"""The model endpoint behind the broker: address, credentials, connections."""

import io
from dataclasses import dataclass, field
from types import SimpleNamespace

import aiohttp
from multidict import CIMultiDict
from yarl import URL

_TRIES = 3


@dataclass(frozen=True, slots=True)
class Upstream:
    """The model endpoint and its credentials, as the CLI's own variables name them.

    `base_url` may carry a path (third-party gateways). `api_key` goes into `x-api-key`,
    `auth_token` into `Authorization: Bearer`. Raises: ValueError for what cannot be sent.
    """

    base_url: str
    api_key: str | None = field(default=None, repr=False)
    auth_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        try:
            url = URL(self.base_url)
        except ValueError as exc:
            raise ValueError("the upstream's base URL is not a URL") from exc
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("the upstream's base URL must begin with http:// or https://")
        if url.user or url.password or url.query_string or url.fragment:
            raise ValueError("the upstream's base URL must have no user, query or fragment")
        for secret in (self.api_key, self.auth_token):
            if secret is not None and not (secret.isascii() and secret.isprintable()):
                raise ValueError(
                    "the upstream's credential has characters that no header may carry"
                )

    def url(self, path: str, query: str) -> URL:
        """Where a path of the API lives; neither path nor query can lead to another host."""
        whole = self.base_url.rstrip("/") + path + (f"?{query}" if query else "")
        return URL(whole, encoded=True)

    def credentials(self) -> dict[str, str]:
        """The headers that open the endpoint."""
        headers: dict[str, str] = {}
        if self.api_key:
            headers["x-api-key"] = self.api_key
        if self.auth_token:
            headers["Authorization"] = f"Bearer {self.auth_token}"
        return headers

    def redacted(self, body: bytes) -> bytes:
        """A body without our credentials: some gateways repeat the key that they refuse."""
        for secret in (self.api_key, self.auth_token):
            if secret:
                body = body.replace(secret.encode(), b"***")
        return body


class Line:
    """The pooled connections to one upstream; `close` ends them."""

    def __init__(self, upstream: Upstream, *, connect_seconds: float) -> None:
        self.upstream = upstream
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_note_reuse)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            trace_configs=[trace],
        )

    async def post(
        self, path: str, query: str, headers: CIMultiDict[str], body: bytes
    ) -> aiohttp.ClientResponse:
        """Send a request; returns at the headers. Redirects are not followed.

        A kept connection that turns out to be closed already is replaced: that is no failure of
        the upstream, and the caller's client would have done the same. Raises: aiohttp.ClientError.
        """
        for _ in range(_TRIES - 1):
            reused = SimpleNamespace(connection=False)
            try:
                return await self._post(path, query, headers, body, reused)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if not reused.connection:
                    raise
        return await self._post(path, query, headers, body, SimpleNamespace())

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def _post(
        self,
        path: str,
        query: str,
        headers: CIMultiDict[str],
        body: bytes,
        context: SimpleNamespace,
    ) -> aiohttp.ClientResponse:
        credentials = self.upstream.credentials()
        return await self._session.post(
            self.upstream.url(path, query),
            data=io.BytesIO(body),  # raw bytes of more than 1 MiB would be written at once
            headers=[*headers.items(), *credentials.items()],
            allow_redirects=False,
            trace_request_ctx=context,
        )


async def _note_reuse(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceConnectionReuseconnParams,
) -> None:
    if context.trace_request_ctx is not None:
        context.trace_request_ctx.connection = True
