"""What `larkline run` and `larkline migrate` do."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack

import structlog

from larkline.agents.processes import hide_from_others
from larkline.app.gateway import Gateway
from larkline.app.parts import (
    check_app,
    secrets,
)
from larkline.config import Settings
from larkline.domain.errors import (
    LarklineError,
)
from larkline.stores.lock import hold
from larkline.stores.sqlite import open_sqlite
from larkline.telemetry.logs import configure
from larkline.telemetry.redaction import Redaction

log = structlog.get_logger()


async def run_gateway(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT, drain, and return 0.

    Raises: SettingsError for what can be known offline, other errors of ours when a stage fails.
    """
    configure(settings.log.level, settings.log.format, Redaction(secrets(settings)))
    _forget_secrets()
    hide_from_others()  # what we were started with stays readable in /proc otherwise
    check_app(settings)
    ended = _on_signals()
    try:
        with hold(settings.home):
            async with AsyncExitStack() as stack:
                gateway = await Gateway.build(settings, stack)
                async with gateway.at_work():
                    await ended.wait()
                    log.info("draining", seconds=settings.limits.drain)
    except LarklineError:
        raise
    except Exception:
        # A boundary: through the log, which knows the secrets, and not as a bare traceback.
        log.critical("larkline failed", exc_info=True)
        return 1
    log.info("ended")
    return 0


async def migrate_store(settings: Settings) -> int:
    """Bring the database to this release; 0 when it is."""
    with hold(settings.home):
        store = await open_sqlite(settings.database)
        await store.close()
    return 0


def _on_signals() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; a second one stops at once.

    Stopping at once is safe: guards end their agents when we are gone, and the next start settles
    what was running.
    """
    ended = asyncio.Event()

    def on_signal() -> None:
        if ended.is_set():
            os._exit(1)
        ended.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return ended


def _forget_secrets() -> None:
    """Take settings out of our environment: what we start inherits none of them."""
    for name in [name for name in os.environ if name.upper().startswith("LARKLINE_")]:
        del os.environ[name]
