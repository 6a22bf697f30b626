"""Run benches by name, or all of them, and keep what they found."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import logging
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import structlog

from larkline import __version__

NAMES = ("turns", "acks", "start", "cards", "order", "store", "broker")
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Exit code 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    names = parser.parse_args().names or NAMES
    RESULTS.mkdir(exist_ok=True)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    missed = []
    for name in names:
        print(f"{name} ...", flush=True)
        figures = asyncio.run(importlib.import_module(f"benchmarks.{name}").measure())
        kept = {
            "bench": name,
            "version": __version__,
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {
                "cores": os.cpu_count(),
                "python": platform.python_version(),
                "kernel": platform.release(),
            },
            **figures,
        }
        (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=2) + "\n")
        print(json.dumps(figures, indent=2), flush=True)
        if not figures.get("met", True):
            missed.append(name)
    if missed:
        print(f"bars missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


sys.exit(main())
