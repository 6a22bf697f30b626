"""What larkline talks about: frozen values. No IO, no clock, no randomness."""
