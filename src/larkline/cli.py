"""The command `larkline`. Each verb imports what it needs when it is called."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from larkline import __version__
from larkline.config import Settings, load
from larkline.domain.errors import LarklineError, SettingsError

app = typer.Typer(
    name="larkline",
    help="Claude Code in Feishu / Lark chats, and never a dropped turn.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Config = Annotated[
    Path | None,
    typer.Option("--config", help="Settings file; default: $LARKLINE_CONFIG or ./larkline.toml."),
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="All state lives under it.")]
Host = Annotated[str | None, typer.Option("--host", help="Address of the HTTP endpoints.")]
Port = Annotated[int | None, typer.Option("--port", help="Port of the HTTP endpoints; 0: any.")]
Level = Annotated[str | None, typer.Option("--log-level", help="debug, info, warning or error.")]


@app.command()
def run(
    config: Config = None,
    data_dir: DataDir = None,
    host: Host = None,
    port: Port = None,
    log_level: Level = None,
) -> None:
    """Run the gateway until SIGTERM or SIGINT; a second one stops at once."""

    def start(settings: Settings) -> Coroutine[Any, Any, int]:
        from larkline.app import run_gateway

        return run_gateway(settings)

    flags = {
        "data_dir": data_dir,
        "web": {"host": host, "port": port},
        "log": {"level": log_level},
    }
    _run(start, config, flags)


@app.command()
def doctor(config: Config = None, data_dir: DataDir = None) -> None:
    """Check settings, data directory, CLI, isolation, connection and scopes."""

    def start(settings: Settings) -> Coroutine[Any, Any, int]:
        from larkline.doctor import examine

        return examine(settings)

    _run(start, config, {"data_dir": data_dir})


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End after the exchange instead of at Ctrl-C.")
    ] = False,
    port: Annotated[int, typer.Option("--port", help="Port of the chat page; 0: any.")] = 8601,
    real_model: Annotated[
        bool,
        typer.Option(
            "--real-model", help="Use a real model, with your own ANTHROPIC_API_KEY. Costs money."
        ),
    ] = False,
) -> None:
    """Try it without an account: a simulated platform, an offline model, the real agent."""
    try:
        from larkline.demo import DemoSettings, play
    except SettingsError as exc:
        _fail(exc)
    key = os.environ.get("ANTHROPIC_API_KEY", "") if real_model else ""
    if real_model and not key:
        _fail(SettingsError("--real-model needs your own key in ANTHROPIC_API_KEY"))
    sys.exit(_guarded(lambda: play(DemoSettings(once=once, port=port, key=key))))


@app.command()
def migrate(config: Config = None, data_dir: DataDir = None) -> None:
    """Bring the database to this release; a backup is taken first."""

    def start(settings: Settings) -> Coroutine[Any, Any, int]:
        from larkline.app import migrate_store

        return migrate_store(settings)

    _run(start, config, {"data_dir": data_dir})


@app.command()
def version() -> None:
    """Show the version."""
    typer.echo(f"larkline {__version__}")


def _run(
    start: Callable[[Settings], Coroutine[Any, Any, int]],
    config: Path | None,
    flags: dict[str, Any],
) -> None:
    try:
        settings = load(config, _given(flags))
    except SettingsError as exc:
        _fail(exc)
    sys.exit(_guarded(lambda: start(settings)))


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given, without the others."""
    given: dict[str, Any] = {}
    for key, value in flags.items():
        if isinstance(value, dict):
            given[key] = _given(value)
        elif value is not None:
            given[key] = value
    return given


def _guarded(start: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run it; our own errors become one line and an exit code."""
    try:
        return asyncio.run(start())
    except SettingsError as exc:
        _fail(exc)
    except LarklineError as exc:
        typer.echo(f"larkline: {exc}", err=True)
        return 1
    except KeyboardInterrupt:
        return 1


def _fail(exc: SettingsError) -> NoReturn:
    typer.echo(f"larkline: {exc}", err=True)
    raise SystemExit(2)
