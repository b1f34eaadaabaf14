"""Defaults of Flower's variables: never an empty password."""

import json
from pathlib import Path

import pytest

from worker.cli.flower import USER, Access, set_defaults
from worker.errors import SettingsError


@pytest.mark.parametrize("auth", [{}, {"FLOWER_BASIC_AUTH": ""}])
def test_a_password_is_generated_once_and_printed_once(tmp_path: Path, auth: dict[str, str]) -> None:
    """Compose files pass an empty variable for one that is not set."""
    first, again = dict(auth), dict(auth)
    printed = set_defaults(first, tmp_path / "home")
    kept = tmp_path / "home/flower.json"
    values = json.loads(kept.read_text())
    password, url = values["password"], f"http://127.0.0.1:{values['port']}"
    assert printed == f"{url}  user {USER}, password {password} (stored in {kept})"
    assert set_defaults(again, tmp_path / "home") == f"{url}  user {USER}, password in {kept}"
    assert first == again
    assert first["FLOWER_BASIC_AUTH"] == f"{USER}:{password}"
    assert len(password) >= 16


@pytest.mark.parametrize("way", ["FLOWER_BASIC_AUTH", "FLOWER_AUTH"])
def test_an_operators_own_login_replaces_the_generated_one(tmp_path: Path, way: str) -> None:
    variables = {way: "ada:secret"}
    printed = set_defaults(variables, tmp_path)
    assert {key for key in variables if key.endswith("AUTH")} == {way}
    assert variables["FLOWER_ADDRESS"] == "127.0.0.1"
    assert printed.endswith(f"  log in as {way} allows")
    assert "secret" not in printed


def test_nothing_is_stored_if_everything_is_set(tmp_path: Path) -> None:
    given = {"FLOWER_PORT": "5555", "FLOWER_BASIC_AUTH": "ada:secret", "FLOWER_ADDRESS": "192.0.2.1"}
    assert set_defaults(dict(given), tmp_path).startswith("http://192.0.2.1:5555 ")
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_reported_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "flower.json").write_text("{}")
    with pytest.raises(SettingsError, match="is damaged: delete it"):
        Access.of(tmp_path)
