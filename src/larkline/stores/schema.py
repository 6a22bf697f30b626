"""The tables, as SQLAlchemy Core sees them; words as in docs/architecture.md.

Partial indexes cover unfinished rows only, so that what is asked all the time (take, due, counts)
costs the same with a hundred and with a hundred thousand finished turns. They name the state too:
only then SQLite answers from the index without a look at the row. Long texts are the last columns,
so that reading the others does not walk through their pages.
Times are Unix seconds, states are short words, JSON is text.
Partial indexes are told to SQLite only: naming PostgreSQL's keyword imports its dialect, a tenth
of the store's start.
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    literal_column,
)

metadata = MetaData()


def word(state: str) -> ColumnElement[str]:
    """A state as a literal in the SQL: a partial index only serves a condition it can read."""
    return literal_column(f"'{state}'", Text)


conversations = Table(
    "conversations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("app_id", Text, nullable=False),
    Column("chat_id", Text, nullable=False),
    Column("thread_id", Text, nullable=False),
    Column("private", Integer, nullable=False),
    Column("session", Text),
    Column("created_at", Float, nullable=False),
    Column("last_active", Float, nullable=False),
)

# One row a message id, for deduplication. `held` is the whole message, only while it is held.
messages = Table(
    "messages",
    metadata,
    Column("id", Text, primary_key=True),
    Column("conversation", Text, ForeignKey("conversations.id"), nullable=False),
    Column("standing", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("accepted_at", Float, nullable=False),
    Column("held", Text),
)
Index(
    "messages_held",
    messages.c.standing,
    messages.c.accepted_at,
    sqlite_where=messages.c.standing == word("held"),
)
Index("messages_age", messages.c.accepted_at)

# state: queued, running, ended (settled) or dropped (cancelled before it started).
turns = Table(
    "turns",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("conversation", Text, ForeignKey("conversations.id"), nullable=False),
    Column("message_id", Text, ForeignKey("messages.id"), nullable=False),
    Column("message_created_at", Float, nullable=False),
    Column("sender", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("accepted_at", Float, nullable=False),
    Column("state", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("owner", Text),
    Column("announced", Integer, nullable=False),
    Column("copy_of", Integer),
    Column("copy_key", Text),
    Column("ended_at", Float),
    Column("ending", Text),
    Column("detail", Text),
    Column("usage", Text),
    Column("prompt", Text, nullable=False),
    sqlite_autoincrement=True,
)
Index("turns_message", turns.c.message_id)
Index("turns_copy_of", turns.c.copy_of, unique=True)
Index("turns_copy_key", turns.c.copy_key, unique=True)
Index("turns_age", turns.c.ended_at)
Index(
    "turns_queued",
    turns.c.state,
    turns.c.id,
    sqlite_where=turns.c.state == word("queued"),
)
Index(
    "turns_order",
    turns.c.state,
    turns.c.conversation,
    turns.c.message_created_at,
    turns.c.message_id,
    turns.c.id,
    sqlite_where=turns.c.state == word("queued"),
)
# Unique: two running turns of one conversation are impossible, not only avoided.
Index(
    "turns_running",
    turns.c.conversation,
    turns.c.state,
    unique=True,
    sqlite_where=turns.c.state == word("running"),
)

# Random ids (prompt_uuid, a part's key) have no index: nobody looks for them, and with many rows
# each would cost a page that is not in the cache.
attempts = Table(
    "attempts",
    metadata,
    Column("turn", Integer, ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("prompt_uuid", Text, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("ending", Text),
)

# state: open (its turn runs), due, sent or failed. `due_order` grows as replies become due: the
# order of delivery inside a conversation must not depend on a clock that can be set back.
replies = Table(
    "replies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("conversation", Text, nullable=False),
    Column("app_id", Text, nullable=False),
    Column("chat_id", Text, nullable=False),
    Column("thread_id", Text, nullable=False),
    Column("reply_to", Text, nullable=False),
    Column("turn", Integer, ForeignKey("turns.id", ondelete="CASCADE")),
    Column("state", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("due_at", Float),
    Column("due_order", Integer),
    Column("next_at", Float),
    Column("attempts", Integer, nullable=False),
    Column("error", Text),
    Column("settled_at", Float),
    Column("final", Text),
    sqlite_autoincrement=True,
)
Index(
    "replies_turn",
    replies.c.turn,
    unique=True,
    sqlite_where=replies.c.turn.is_not(None),
)
Index("replies_due_order", replies.c.due_order, unique=True)
Index(
    "notices_age",
    replies.c.settled_at,
    sqlite_where=replies.c.turn.is_(None),
)
Index(
    "replies_due",
    replies.c.conversation,
    replies.c.due_order,
    replies.c.next_at,
    replies.c.turn,
    replies.c.state,
    sqlite_where=replies.c.state == word("due"),
)
Index(
    "replies_postponed",
    replies.c.next_at,
    replies.c.state,
    sqlite_where=replies.c.state == word("due"),
)

parts = Table(
    "parts",
    metadata,
    Column("reply", Integer, ForeignKey("replies.id", ondelete="CASCADE"), primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("page", Integer, nullable=False),
    Column("form", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("card", Text),
    Column("message", Text),
    Column("reserved", Integer, nullable=False),
    Column("send_began", Float),
    Column("state", Text, nullable=False),
)

# `once` keys of notices. Never pruned: at most once means ever.
notice_keys = Table(
    "notice_keys",
    metadata,
    Column("key", Text, primary_key=True),
    Column("used_at", Float, nullable=False),
)

# Events that could not be understood. `key` is the event id, or a digest of the body without one.
raw_events = Table(
    "raw_events",
    metadata,
    Column("key", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False),
    Column("kept_at", Float, nullable=False),
)
Index("raw_events_age", raw_events.c.kept_at)

# A forgotten transcript has no project: its key is free at once, its entries go in small steps.
transcripts = Table(
    "transcripts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project", Text),
    Column("session", Text, nullable=False),
    Column("subpath", Text, nullable=False),
    Column("entries", Integer, nullable=False),
    Column("last_entry_at", Float, nullable=False),
    sqlite_autoincrement=True,
)
Index(
    "transcripts_key",
    transcripts.c.project,
    transcripts.c.session,
    transcripts.c.subpath,
    unique=True,
)
Index("transcripts_age", transcripts.c.last_entry_at)

transcript_entries = Table(
    "transcript_entries",
    metadata,
    Column("transcript", Integer, ForeignKey("transcripts.id"), primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("uuid", Text),
    Column("entry", Text, nullable=False),
)
Index(
    "transcript_entries_uuid",
    transcript_entries.c.transcript,
    transcript_entries.c.uuid,
    unique=True,
)

# One row, written to prove that writing works.
pulse = Table(
    "pulse",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("beat_at", Float, nullable=False),
)
