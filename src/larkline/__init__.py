"""Claude Code in Feishu / Lark chats, and never a dropped turn."""

__version__ = "0.1.0"
