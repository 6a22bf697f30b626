"""Figures of larkline: `python -m benchmarks [NAME ...]` writes benchmarks/results/NAME.json."""

import sys
from pathlib import Path

# The kit that runs whole gateways is the end-to-end tests' own.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "e2e"))
