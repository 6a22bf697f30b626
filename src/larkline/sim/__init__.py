"""A stand-in of the Feishu platform and an offline model: for the demo, development and tests."""
