"""The catalogue of texts."""

import string
from pathlib import Path

import pytest

import larkline
from larkline.domain.model import Ending
from larkline.texts import CATALOGUE, text


def fields(wording: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(wording) if name is not None}


@pytest.mark.parametrize("key", CATALOGUE)
def test_both_languages_say_the_same(key: str) -> None:
    """Each entry exists in zh and en, with the same fields."""
    entry = CATALOGUE[key]
    assert set(entry) == {"zh", "en"}
    assert all(entry.values())
    assert fields(entry["zh"]) == fields(entry["en"])


@pytest.mark.parametrize(
    "ending", [e for e in Ending if e not in (Ending.ANSWERED, Ending.STOPPED)]
)
def test_every_failure_says_what_to_do(ending: Ending) -> None:
    """Each class of failure has its reason and its advice."""
    assert f"ending.{ending}" in CATALOGUE
    assert f"advice.{ending}" in CATALOGUE


def test_the_founding_texts_are_kept() -> None:
    """Texts that users and operators know stay to the letter."""
    assert text("zh", "busy", running=5, limit=5) == "系统繁忙，请稍后重试 (当前 5/5 个并发进程)"
    assert text("zh", "failure", reason="x", advice="y").startswith("❌ 处理失败: x\n")


def test_no_entry_is_unused() -> None:
    """Each key stands in the code, or belongs to a family that the code spells with a prefix."""
    sources = Path(larkline.__file__).parent.rglob("*.py")
    code = "\n".join(path.read_text() for path in sources if path.name != "catalogue.py")
    families = ("ending", "advice", "doctor", "card")
    for key in CATALOGUE:
        family = key.partition(".")[0]
        if f'"{key}"' in code or f"'{key}'" in code:
            continue
        assert family in families, key
        assert f'"{family}.' in code
