"""Decisions as pure functions: (state, observation, now) -> state. No IO, no clock, no chance."""
