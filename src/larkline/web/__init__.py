"""HTTP endpoints of a running gateway."""
