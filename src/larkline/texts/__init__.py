"""Everything a user reads, in Chinese and English: `text(language, key, **fields)`."""

from __future__ import annotations

from larkline.domain.model import Language
from larkline.texts.catalogue import CATALOGUE

__all__ = ["CATALOGUE", "text"]


def text(language: Language, key: str, **fields: object) -> str:
    """The catalogue's wording with its fields filled in.

    Raises: KeyError for an unknown key or a missing field; both are bugs that a test finds.
    """
    wording = CATALOGUE[key][language]
    return wording.format(**fields) if fields else wording
