"""Who may start something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from larkline.domain.model import UserId

AdmissionPolicy = Literal["pairing", "allowlist", "open"]


@dataclass(frozen=True, slots=True)
class Admission:
    """The rules. `users`, `admins`: open_ids; `chats`: every member of these chats is admitted."""

    policy: AdmissionPolicy = "pairing"
    users: frozenset[str] = frozenset()
    chats: frozenset[str] = frozenset()
    admins: frozenset[str] = frozenset()

    def admits(self, user: UserId, chat_id: str) -> bool:
        """Whether this person may start turns in this chat.

        `pairing` admits whom `allowlist` admits: whoever is paired is on the list.
        """
        if self.policy == "open":
            return True
        return user in self.users or user in self.admins or chat_id in self.chats

    @property
    def more_than_one_person(self) -> bool:
        """True unless the rules can only ever admit a single person."""
        return self.policy == "open" or bool(self.chats) or len({*self.users, *self.admins}) > 1
