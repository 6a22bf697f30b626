"""The model broker: agents speak to it instead of the model's endpoint, and never see the key.

It forwards `/v1/messages` to one upstream, byte for byte as it comes, tells the CLI by
`x-should-retry: false` not to retry errors by itself, cuts silent streams and meters tokens.

    async with Broker(Upstream("https://api.anthropic.com", api_key=key)) as broker:
        token = broker.admit("conversation 1")   # the agent's ANTHROPIC_API_KEY
        ...                                      # with ANTHROPIC_BASE_URL = broker.url
        broker.turn_report(token)
        broker.dismiss(token)
"""

import asyncio
import hashlib
import secrets
from types import TracebackType
from typing import Self

from aiohttp import web

from larkline.agents.account import Account, Tally, TurnReport
from larkline.agents.relay import Patience, Relay, refusal
from larkline.agents.upstream import Line, Upstream

__all__ = ["Broker", "TurnReport", "Upstream"]

_MESSAGES, _COUNT_TOKENS = "/v1/messages", "/v1/messages/count_tokens"
_BODY_LIMIT_BYTES = 40 << 20  # the API takes 32 MB and should say so itself
_CONNECTIONS = 256  # a hostile agent must not use up the gateway's descriptors


class Broker:
    """A loopback endpoint for agents; an async context manager owns socket and connections.

    `silence_seconds`: how long the upstream may send nothing but pings, before its headers or
    after. `whole_seconds`: the same before the headers of an answer that is not streamed.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        silence_seconds: float = 90.0,
        whole_seconds: float = 600.0,
        connect_seconds: float = 10.0,
    ) -> None:
        self._upstream = upstream
        self._patience = Patience(silence=silence_seconds, whole=whole_seconds)
        self._connect_seconds = connect_seconds
        self._accounts: dict[bytes, Account] = {}
        self._runner: web.AppRunner | None = None
        self._line: Line | None = None
        self._listener: asyncio.Server | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """The agents' base URL, without a trailing slash."""
        return self._url

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=_BODY_LIMIT_BYTES)
        for path in (_MESSAGES, _COUNT_TOKENS):
            app.router.add_post(path, self._forward)
        app.router.add_route("*", "/{path:.*}", self._refuse)
        self._line = Line(self._upstream, connect_seconds=self._connect_seconds)
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        self._runner = runner
        await runner.setup()
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._connected, "127.0.0.1", 0)
        self._url = f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for account in self._accounts.values():
            _end_calls(account)
        if self._listener is not None:
            self._listener.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._line is not None:
            await self._line.close()

    def admit(self, agent_name: str) -> str:
        """A new random token for an agent; it opens nothing but this broker, until `dismiss`."""
        token = f"larkline-{secrets.token_urlsafe(32)}"
        self._accounts[_digest(token)] = Account(agent_name)
        return token

    def dismiss(self, token: str) -> None:
        """Forget a token and end its calls under way; repeatable."""
        account = self._accounts.pop(_digest(token), None)
        if account is not None:
            _end_calls(account)

    def new_turn(self, token: str) -> None:
        """Begin the agent's next turn. Raises: KeyError for a token that is not admitted."""
        self._accounts[_digest(token)].new_turn()

    def turn_report(self, token: str) -> TurnReport:
        """The agent's turn so far. Raises: KeyError for a token that is not admitted."""
        return self._accounts[_digest(token)].tally.report()

    def _connected(self) -> asyncio.BaseProtocol:
        """What speaks to a new connection: nobody while there are too many."""
        assert self._runner is not None
        server = self._runner.server
        if server is None or len(server.connections) >= _CONNECTIONS:
            return _Closing()
        return server()

    def _account(self, request: web.Request) -> Account | None:
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        shown = request.headers.get("x-api-key") or bearer
        # By digest: how long the look-up takes says nothing about a token.
        return self._accounts.get(_digest(shown))

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        account = self._account(request)
        if account is None:
            return refusal(401, "authentication_error", "this token was not issued by larkline")
        if not request.raw_path.startswith("/") or self._line is None:
            return refusal(400, "invalid_request_error", "only plain paths are served")
        task = asyncio.current_task()
        assert task is not None
        account.calls.add(task)
        try:
            tally = account.tally if request.path == _MESSAGES else Tally()
            return await Relay(request, tally, self._line, self._patience).run()
        finally:
            account.calls.discard(task)

    async def _refuse(self, request: web.Request) -> web.StreamResponse:
        if self._account(request) is None:
            return refusal(401, "authentication_error", "this token was not issued by larkline")
        return refusal(404, "not_found_error", "larkline's broker serves /v1/messages only")


class _Closing(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def _end_calls(account: Account) -> None:
    for call in account.calls:
        call.cancel()
