"""The documents: what is made from the code is fresh, links lead somewhere, examples load."""

import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from larkline.config import Settings, load

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], key=lambda each: each.as_posix()
)
# Pictures are not links: `![...](...)`.
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
EXAMPLE = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def tool(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tools" / f"{name}.py"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    titles = (title.lower() for title in HEADING.findall(page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in titles}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_settings_page_is_what_the_code_says() -> None:
    """docs/settings.md is made from the settings; `python tools/settings_table.py` makes it."""
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == tool("settings_table")["page"]()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_between_documents_work(page: Path) -> None:
    """Every relative link names a file that is there, and a heading in it if it names one."""
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{name(page)}: {link}"


def test_both_readmes_link_the_settings() -> None:
    """Who reads either README finds the table of all keys."""
    for readme in ("README.md", "README.zh.md"):
        assert "docs/settings.md" in LINK.findall((ROOT / readme).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_settings_examples_load(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each settings example of the documents is read without an error."""
    monkeypatch.chdir(tmp_path)
    for number, example in enumerate(EXAMPLE.findall(page.read_text(encoding="utf-8"))):
        path = tmp_path / f"example-{number}.toml"
        path.write_text(example, encoding="utf-8")
        assert isinstance(load(path), Settings)


def test_fragments_make_a_release() -> None:
    """Every fragment is well named, and together they are a release of the changelog."""
    changelog = tool("changelog")
    found = changelog["fragments"](ROOT / "changes")
    page = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    made = changelog["release"](page, "99.0.0", "2026-01-01", found or {"added": ["x"]})
    assert made.index(changelog["MARK"]) < made.index("## 99.0.0 (2026-01-01)")
    assert all(text in made for texts in found.values() for text in texts)
    with pytest.raises(ValueError, match="already"):
        changelog["release"](made, "99.0.0", "2026-01-01", found)


def test_a_wrong_fragment_is_named(tmp_path: Path) -> None:
    """A fragment of an unknown kind is an error that names it."""
    (tmp_path / "7.improved.md").write_text("It is better now.")
    with pytest.raises(ValueError, match=r"7\.improved\.md"):
        tool("changelog")["fragments"](tmp_path)


def test_the_lock_of_the_gateway_has_what_it_needs_and_no_tests() -> None:
    """What the container installs has every dependency of the project and none of its tests."""
    locked = tool("locked")
    pins = locked["needed"](locked["LOCK"].read_text(encoding="utf-8"), [locked["PROJECT"]])
    names = set(re.findall(r"^([A-Za-z0-9._-]+)==", pins, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = {re.split(r"[<>=\[; ]", each)[0] for each in project["project"]["dependencies"]}
    assert wanted <= names
    assert not names & {"pytest", "lark-oapi", "playwright", "mypy", "hypothesis"}
    assert all("--hash=sha256:" in block for block in re.split(r"^(?=\w)", pins, flags=re.M)[1:])
