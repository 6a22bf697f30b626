"""Settings: one order of sources, and errors that name the key."""

import re
from pathlib import Path

import pytest

from larkline.config import keys, load
from larkline.domain.errors import SettingsError


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def toml(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(body)
    return path


def test_later_sources_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults < TOML < environment < flags, key by key."""
    config = toml(tmp_path, '[web]\nport = 1\nhost = "127.0.0.1"\n[limits]\nmax_concurrent = 7\n')
    assert load(config).web.port == 1
    monkeypatch.setenv("LARKLINE_WEB__PORT", "2")
    settings = load(config)
    assert (settings.web.port, settings.limits.max_concurrent) == (2, 7)
    assert load(config, {"web": {"port": 3}}).web.port == 3


def test_config_variable_and_default_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`./larkline.toml` is read unless $LARKLINE_CONFIG names another file."""
    (tmp_path / "larkline.toml").write_text('language = "en"')
    assert load().language == "en"
    monkeypatch.setenv("LARKLINE_CONFIG", str(toml(tmp_path, "data_dir = '/x'")))
    assert (load().language, load().home) == ("zh", Path("/x"))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("[limit]\nmax_concurrent = 2", "unknown key limit.*did you mean limits"),
        ("[limits]\nmax_concurent = 2", r"limits\.max_concurent.*did you mean limits\.max_conc"),
        ("limits = 3", r"write \[limits\]"),
        ("[limits]\nmax_concurrent = 0", r"limits\.max_concurrent: "),
        ("[web]\nport = 'x'", r"web\.port: "),
        ("[web]\nhost = '0.0.0.0'", r"web\.token: "),
        ("[feishu]\ntransport = 'webhook'", "not there yet"),
        ("profile = 'seed'", "not there yet"),
        ("[feishu]\ndomain = 'open.feishu.cn'", r"feishu\.domain: "),
        ("[store]\nurl = 'postgresql://x/y'", r"store\.url: only sqlite"),
        ("[agent.env]\nANTHROPIC_API_KEY = 'a'\nANTHROPIC_AUTH_TOKEN = 'b'", "not both"),
        ("= 3", "not valid TOML"),
        ("data_dir = '~nobody-at-all/x'", r"data_dir: "),
        ("[workspaces]\nroot = '~nobody-at-all/x'", r"workspaces\.root: "),
        ("[store]\nurl = 'sqlite:////nowhere/x.db'", r"store\.url: there is no folder"),
        ("[store]\nurl = 'sqlite:////usr'", r"store\.url: /usr is a folder"),
        ('[agent.env]\nA = "a\\u0000b"', r"agent\.env: 'A'"),
    ],
)
def test_wrong_settings_name_the_key(tmp_path: Path, body: str, says: str) -> None:
    """Each mistake in the file is one clear error."""
    with pytest.raises(SettingsError, match=says):
        load(toml(tmp_path, body))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("LARKLINE_FEISHU__APPID", "x", "did you mean LARKLINE_FEISHU__APP_ID"),
        ("LARKLINE_WEB_PORT", "1", "did you mean LARKLINE_WEB__PORT"),
        ("LARKLINE_AGENT__ENV", "A=1", "JSON"),
        ("LARKLINE_LIMITS__DRAIN", "soon", r"limits\.drain"),
    ],
)
def test_wrong_variables_name_the_right_one(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    """A misspelt or unreadable variable is an error, not ignored."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=says):
        load()


def test_lists_and_tables_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are words with commas or JSON; tables are JSON."""
    monkeypatch.setenv("LARKLINE_ADMISSION__USERS", "ou_a, ou_b")
    monkeypatch.setenv("LARKLINE_AGENT__ALLOW", '["Bash(git status:*)"]')
    monkeypatch.setenv("LARKLINE_AGENT__ENV", '{"ANTHROPIC_BASE_URL": "http://127.0.0.1:1"}')
    settings = load()
    assert settings.admission.users == ("ou_a", "ou_b")
    assert settings.agent.allow == ("Bash(git status:*)",)
    assert settings.agent.env["ANTHROPIC_BASE_URL"].get_secret_value() == "http://127.0.0.1:1"


def test_errors_never_show_the_value(tmp_path: Path) -> None:
    """A secret of the wrong type is not repeated."""
    with pytest.raises(SettingsError) as caught:
        load(toml(tmp_path, "[feishu]\napp_secret = ['hunter2']"))
    assert "hunter2" not in str(caught.value)
    assert "feishu.app_secret" in str(caught.value)


def test_secrets_are_not_printed(tmp_path: Path) -> None:
    """The settings' own text form hides secrets."""
    settings = load(toml(tmp_path, "[feishu]\napp_secret = 'hunter2'"))
    assert "hunter2" not in repr(settings)


def test_every_key_is_explained() -> None:
    """The settings table of the documentation can be generated whole."""
    for name, field in keys():
        assert field.description, name
        assert re.fullmatch(r"[a-z_]+(\.[a-z_]+)?", name)


def test_a_database_may_be_named_below_a_data_dir_that_is_yet_to_be_made(tmp_path: Path) -> None:
    """The default, written out, works on the first start; so does a domain with a slash."""
    home = tmp_path / "not" / "there"
    body = f"data_dir = '{home}'\n[store]\nurl = 'sqlite:///{home}/larkline.db'\n"
    settings = load(toml(tmp_path, body + "[feishu]\ndomain = 'http://127.0.0.1:1/'\n"))
    assert settings.database == home / "larkline.db"
