"""The composition root: the only package that knows all others."""

from larkline.app.main import migrate_store, run_gateway

__all__ = ["migrate_store", "run_gateway"]
