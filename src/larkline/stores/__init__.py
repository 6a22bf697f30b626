"""Stores behind the port `Store`."""
