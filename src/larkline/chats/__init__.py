"""Chat platforms behind the port `Chat`."""
