"""The outbox: what users see leaves through here."""

from larkline.stages.outbox.settings import OutboxSettings
from larkline.stages.outbox.stage import Outbox

__all__ = ["Outbox", "OutboxSettings"]
