"""The copy of /etc that isolated agents see."""

from __future__ import annotations

from pathlib import Path

import pytest

from larkline.agents.etc import etc_copy


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small /etc with things to show and things to keep."""
    source = tmp_path / "etc"
    (source / "ssl" / "certs").mkdir(parents=True)
    (source / "ssl" / "private").mkdir()
    for name in ("hosts", "shadow", "ssl/certs/one.pem", "ssl/private/key.pem", "run-resolv"):
        (source / name).write_text(name)
    (source / "ssl" / "certs" / "two.pem").symlink_to("one.pem")
    (source / "resolv.conf").symlink_to(source / "run-resolv")
    (source / "os-release").symlink_to("/usr/lib/os-release")
    return source


def test_shows_the_list_alone(tmp_path: Path, source: Path) -> None:
    """Listed files are there with their text, links outside the system as files; no others."""
    made = etc_copy(tmp_path, source)
    shown = sorted(str(p.relative_to(made)) for p in made.rglob("*") if not p.is_dir())
    assert shown == ["hosts", "os-release", "resolv.conf", "ssl/certs/one.pem", "ssl/certs/two.pem"]
    assert (made / "resolv.conf").read_text() == "run-resolv"
    assert not (made / "resolv.conf").is_symlink()
    assert (made / "ssl" / "certs" / "two.pem").read_text() == "ssl/certs/one.pem"
    assert (made / "os-release").readlink() == Path("/usr/lib/os-release").resolve()


def test_keeps_what_is_not_for_everybody(tmp_path: Path, source: Path) -> None:
    """A file that not everybody may read is not shown, even if larkline may read it."""
    (source / "hosts").chmod(0o640)
    (source / "ssl" / "certs" / "one.pem").chmod(0o600)
    made = etc_copy(tmp_path, source)
    assert not (made / "hosts").exists()
    assert not (made / "ssl" / "certs" / "one.pem").exists()


def test_is_made_once_and_anew_after_a_change(tmp_path: Path, source: Path) -> None:
    """The same sources give the same folder; a changed one gives another, whole again."""
    first = etc_copy(tmp_path, source)
    assert etc_copy(tmp_path, source) == first
    (source / "new").write_text("name resolution moved")
    (source / "new").replace(source / "run-resolv")
    second = etc_copy(tmp_path, source)
    assert second != first
    assert (second / "resolv.conf").read_text() == "name resolution moved"
    assert (first / "resolv.conf").read_text() == "run-resolv"
    assert not list(tmp_path.glob(".etc-*"))
