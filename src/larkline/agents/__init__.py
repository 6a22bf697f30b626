"""Agents behind the port `Agent`, and what keeps them in check."""
