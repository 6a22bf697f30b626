from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from larkline.chats.feishu.reconnect import (
    Cadence,
    bounded,
    configured,
    deaf_at,
    failures_after,
    next_delay,
)
from larkline.chats.feishu.refusals import (
    Answer,
    endpoint_refused,
    handshake_refused,
    refusal,
)
from larkline.chats.feishu.settings import Bounds, FeishuSettings
from larkline.chats.feishu.token import TenantToken, Token, granted
from larkline.domain.errors import (
    ChatGone,
    ContentRefused,
    LarklineError,
    Permanent,
    SequenceStale,
    StreamClosed,
    TargetGone,
    Transient,
)

BOUNDS = Bounds()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
NAMES = st.sampled_from(["PingInterval", "ReconnectInterval", "ReconnectNonce", "ReconnectCount"])
CHANCE = st.floats(0, 1, exclude_max=True)


@given(st.dictionaries(NAMES, JSON) | JSON)
def test_any_config_stays_inside_our_bounds(config: object) -> None:
    """Whatever a ClientConfig says, we neither hammer nor stay away for ever."""
    cadence = configured(bounded(Cadence(), BOUNDS), config, BOUNDS)
    for value, (low, high) in (
        (cadence.ping, BOUNDS.ping),
        (cadence.interval, BOUNDS.interval),
        (cadence.nonce, BOUNDS.nonce),
    ):
        assert low <= value <= high


def test_a_sensible_config_is_honoured() -> None:
    """Values inside the bounds are taken as they are, missing ones stay."""
    config = {"PingInterval": 30, "ReconnectInterval": 20, "ReconnectCount": 1}
    before = bounded(Cadence(), BOUNDS)
    assert configured(before, config, BOUNDS) == Cadence(30, 20, before.nonce)
    nothing = {"PingInterval": float("nan"), "ReconnectInterval": True, "ReconnectNonce": "3"}
    assert configured(Cadence(30, 20, 7), nothing, BOUNDS) == Cadence(30, 20, 7)


@given(st.integers(0, 10**6), CHANCE)
def test_delays_are_bounded_and_never_end(failures: int, chance: float) -> None:
    """However often it failed, the next try comes, within the interval and not at once."""
    cadence = bounded(Cadence(), BOUNDS)
    delay = next_delay(failures, cadence, BOUNDS, chance)
    assert 0 <= delay <= max(cadence.interval, cadence.nonce)
    if failures:
        assert delay >= BOUNDS.first_retry / 2


def test_delays_grow_to_the_interval() -> None:
    """Failures in a row double the delay up to what the server asked for."""
    delays = [next_delay(n, Cadence(interval=20), BOUNDS, 0.0) for n in range(1, 8)]
    assert delays == [0.5, 1, 2, 4, 8, 10, 10]


def test_two_silent_pings_make_a_connection_deaf() -> None:
    """Silence counts as death after two ping intervals and the slack, not before."""
    assert deaf_at(100.0, Cadence(ping=30), BOUNDS) == 100 + 60 + BOUNDS.slack


def test_only_a_steady_connection_starts_the_backoff_anew() -> None:
    """A platform that accepts and closes at once is not called ever faster."""
    assert failures_after(5, 0.1, BOUNDS) == 6
    assert failures_after(5, BOUNDS.steady, BOUNDS) == 0


def _refused(code: int, status: int = 400, msg: str = "", **more: object) -> LarklineError:
    return refusal(Answer("api", status, code, msg, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (230011, TargetGone),
        (231003, TargetGone),
        (99992354, TargetGone),
        (230002, ChatGone),
        (230013, ChatGone),
        (230029, ChatGone),
        (230034, ChatGone),
        (230053, ChatGone),
        (232009, ChatGone),
        (230110, TargetGone),
        (230022, ContentRefused),
        (230028, ContentRefused),
        (230025, ContentRefused),
        (230099, ContentRefused),
        (11310, ContentRefused),
        (200621, ContentRefused),
        (200861, ContentRefused),
        (300305, ContentRefused),
        (230055, ContentRefused),
        (200850, StreamClosed),
        (300309, StreamClosed),
        (300317, SequenceStale),
        (230027, Permanent),
        (99991672, Permanent),
        (99992402, Permanent),
    ],
)
@pytest.mark.parametrize("status", [200, 400])
def test_the_code_decides_the_class_and_not_the_status(
    code: int, kind: type[Permanent], status: int
) -> None:
    """The same code gives the same error under each HTTP status, and the error carries it."""
    error = _refused(code, status)
    assert type(error) is kind
    assert error.code == code


@pytest.mark.parametrize(("code", "status"), [(99991400, 429), (99991400, 400), (230020, 400)])
@pytest.mark.parametrize(
    ("reset", "wait"),
    [("7", 7.0), (None, 1.0), ("soon", 1.0), ("-3", 1.0), ("nan", 1.0), ("inf", 3600.0)],
)
def test_rate_limits_wait_as_told(code: int, status: int, reset: str | None, wait: float) -> None:
    """A rate limit is transient, sure not to have happened, and names the wait."""
    error = _refused(code, status, reset=reset, write=True)
    assert isinstance(error, Transient)
    assert (error.retry_after, error.unsure) == (wait, False)


def test_a_wrapped_code_counts() -> None:
    """230099 says inside its text what was wrong: that number decides."""
    error = _refused(230099, msg="Failed, ext=ErrCode: 11310; ErrMsg: table over limit")
    assert isinstance(error, ContentRefused)
    assert error.code == 11310
    assert isinstance(_refused(230099, msg="ext=ErrCode: 300317; x"), SequenceStale)
    assert isinstance(_refused(230099, msg="ext=ErrCode: 5; x"), ContentRefused)


def test_an_unknown_code_with_a_server_error_may_pass_later() -> None:
    """A 5xx with an unknown code is transient, and unsure for writes."""
    error = _refused(77777, 500, write=True)
    assert isinstance(error, Transient)
    assert error.unsure


def test_errors_name_code_and_log_id_but_not_the_content() -> None:
    """Operators get code and log id; a refused content is not quoted."""
    words = str(_refused(230025, msg="the text was: SECRET PROMPT", log_id="2026ABC"))
    assert "230025" in words
    assert "2026ABC" in words
    assert "SECRET" not in words
    assert len(str(_refused(230001, msg="x\n" * 9000))) < 300


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1000040351, "feishu.domain"),
        (1000040350, "too many connections"),
        (1000040345, "feishu.app_secret"),
        (514, "feishu.app_id"),
        (403, "console"),
        (424242, "424242"),
    ],
)
def test_refused_connections_say_what_to_do(code: int, words: str) -> None:
    """The reason of a refusal is in words, with the code, for known and unknown ones."""
    assert words in str(endpoint_refused(code, "no"))
    headers = {"handshake-status": "514", "handshake-autherrcode": str(code)}
    assert words in str(handshake_refused(400, headers))
    assert str(code) in str(endpoint_refused(code, ""))


@pytest.mark.parametrize("text", ["", "x", "9" * 5000, "４２"])
def test_strange_handshake_headers_are_survived(text: str) -> None:
    """Whatever stands in the handshake's headers, there is a reason."""
    assert "refused" in str(handshake_refused(502, {"handshake-status": text}))


def test_the_secret_is_in_no_repr() -> None:
    """Settings can be printed without giving the secret away."""
    assert "hunter2" not in repr(FeishuSettings("cli_a", "hunter2"))


class Issuer:
    """Hands out numbered tokens that live 7200 s; fails when told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.issued = 0
        self.failing = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self) -> Token:
        await self.gate.wait()
        if self.failing:
            raise Transient("no answer")
        self.issued += 1
        return granted(f"t-{self.issued}", 7200, self.now)


async def test_one_token_serves_many_callers() -> None:
    """Callers that need a token at the same moment cause one fetch."""
    issuer = Issuer()
    issuer.gate.clear()
    token = TenantToken(issuer.fetch, lambda: issuer.now)
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(token.current()) for _ in range(20)]
        await asyncio.sleep(0)
        issuer.gate.set()
    assert {call.result().secret for call in calls} == {"t-1"}
    assert issuer.issued == 1


async def test_a_token_is_renewed_before_its_end() -> None:
    """Ten minutes before the end a new token is fetched; a failing renewal keeps the old one."""
    issuer = Issuer()
    token = TenantToken(issuer.fetch, lambda: issuer.now)
    assert (await token.current()).secret == "t-1"
    issuer.now = 6599.0
    assert (await token.current()).secret == "t-1"
    issuer.now, issuer.failing = 6601.0, True
    assert (await token.current()).secret == "t-1"
    issuer.now, issuer.failing = 6640.0, False
    assert (await token.current()).secret == "t-2"
    issuer.now, issuer.failing = 6640.0 + 7201.0, True
    with pytest.raises(Transient):
        await token.current()


async def test_a_refused_token_is_replaced_once_for_all() -> None:
    """Many calls refused with the same token cause one fetch, and the new one is kept."""
    issuer = Issuer()
    token = TenantToken(issuer.fetch, lambda: issuer.now)
    refused = await token.current()
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(token.instead_of(refused)) for _ in range(20)]
    assert {call.result().secret for call in calls} == {"t-2"}
    assert (await token.current()).secret == "t-2"


def test_a_short_lived_token_is_not_fetched_with_every_call() -> None:
    """A token of less than twenty minutes is renewed at half of its life."""
    assert granted("t", 60, 100.0).renew_at == 130.0
    assert granted("t", 7200, 0.0).renew_at == 6600.0
