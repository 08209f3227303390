"""`config --explain`: what a setting is, and where its value came from."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eclipse_ws.cli import main
from eclipse_ws.commands.config import settings
from eclipse_ws.config.settings import Settings

SECRET = "a-secret-of-the-tests-which-is-long-enough"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty directory, and no variable that sets anything."""
    monkeypatch.chdir(tmp_path)
    for each in settings().values():
        monkeypatch.delenv(each.variable, raising=False)


def explain(*names: str, profile: str = "dev", **variables: str) -> Result:
    """The command's output."""
    arguments = ["config", "--profile", profile, "--explain", *names]
    return CliRunner().invoke(main, arguments, env=variables)


def rows(result: Result) -> dict[str, str]:
    """The rows of one paragraph by their titles."""
    assert result.exit_code == 0, result.output
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines()[2:]]
    return {title: text for title, text in lines}


@pytest.mark.parametrize("name", ["PORT", "port"])
def test_a_setting_is_explained(name: str) -> None:
    """The paragraph holds its variable, description, value, source, bounds and default."""
    result = explain(name)
    assert result.stdout.splitlines()[:2] == ["PORT", "  TCP port to listen on; 0 picks a free one"]
    assert rows(result) == {
        "value": "8080",
        "from": "default",
        "expected": "whole number from 0 to 65535",
        "default": "8080",
        "reload": "a new value needs a restart",
    }


def test_all_sources_that_set_it_are_named(tmp_path: Path) -> None:
    """The strongest source is the value's; those that it overrides follow, the strongest first."""
    (tmp_path / "mine.toml").write_text("ping_interval = 11\n")
    (tmp_path / ".env").write_text("ECLIPSE_PING_INTERVAL=12\n")
    own = {"JWT_SECRET": SECRET, "INTERNAL_API_SECRET": f"{SECRET}2", "NEXT_API_URL": "https://a.acme.com"}
    own |= {"REDIS_URL": "redis://h", "ECLIPSE_PROFILE": "test"}
    said = explain("ping_interval", profile="./mine.toml", ECLIPSE_PING_INTERVAL="13", **own)
    assert rows(said)["value"] == "13"
    assert rows(said)["from"] == "environment, which overrides .env, profile ./mine.toml"
    assert rows(explain("ping_interval", profile="./mine.toml", **own))["from"] == (
        ".env, which overrides profile ./mine.toml"
    )
    profile = rows(explain("ECLIPSE_PROFILE", profile="./mine.toml", **own))
    assert profile["from"] == "--profile, which overrides ECLIPSE_PROFILE"


def test_a_secret_is_masked_and_can_be_reloaded() -> None:
    """Its value is never shown; SIGHUP is enough for a new one."""
    result = explain("JWT_SECRET", JWT_SECRET=SECRET)
    assert SECRET not in result.output
    assert rows(result)["value"] == "********"
    assert rows(result)["expected"] == "secret text"
    assert rows(result)["reload"] == "SIGHUP applies a new value"


def test_values_of_each_kind() -> None:
    """Choices, switches, lists and optional values are described in words."""
    expected = {name: about.values for name, about in settings().items()}
    assert expected["log_format"] == "console, json"
    assert expected["compression"] == "true or false"
    assert expected["allowed_origins"] == "list, separated by commas"
    assert expected["admin_port"] == "whole number from 0 to 65535, or unset"
    assert expected["workers"] == "auto, or whole number from 1 to 128"
    assert expected["ping_interval"] == "number above 0 to 86400"
    said = explain("allowed_origins", "admin_port", ALLOWED_ORIGINS="https://a.com,https://b.com").stdout
    assert "value     https://a.com, https://b.com\n" in said
    assert "value     unset\n" in said


def test_without_names_all_settings_are_explained() -> None:
    """One paragraph for each."""
    result = explain()
    assert len(result.stdout.split("\n\n")) == len(Settings.model_fields)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("PING_INTERVALL", "unknown setting PING_INTERVALL: did you mean ECLIPSE_PING_INTERVAL?"),
        ("reddis-url", "unknown setting reddis-url: did you mean REDIS_URL?"),
        ("zzz\x1b[1m", "unknown setting zzz\\x1b[1m: `eclipse-ws config` lists the settings."),
    ],
)
def test_an_unknown_name_gets_a_suggestion(name: str, sentence: str) -> None:
    """One sentence on stderr, and the code for a wrong call."""
    result = explain("PORT", name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.strip() == sentence


@pytest.mark.parametrize("arguments", [["PORT"], ["--explain", "--json"]])
def test_incompatible_options_are_refused(arguments: list[str]) -> None:
    """Names without --explain, and an explanation as JSON."""
    result = CliRunner().invoke(main, ["config", *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--explain" in result.stderr
