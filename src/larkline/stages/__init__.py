"""The way of a message: intake, scheduler, runner, renderer, outbox, keeper."""
