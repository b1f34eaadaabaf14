"""Flower's options: what is missing is filled in, and never with an empty password."""

import json
from pathlib import Path

import pytest

from worker.cli.monitor import USER, Monitor, complete
from worker.errors import SettingsError


@pytest.mark.parametrize("auth", [{}, {"FLOWER_BASIC_AUTH": ""}])
def test_a_password_is_made_once_and_shown_once(tmp_path: Path, auth: dict[str, str]) -> None:
    """Also where a compose file gives an empty variable."""
    first, again = dict(auth), dict(auth)
    said = complete(first, tmp_path / "home")
    kept = tmp_path / "home/flower.json"
    values = json.loads(kept.read_text())
    password, url = values["password"], f"http://127.0.0.1:{values['port']}"
    assert said == f"{url}  user {USER}, password {password} (kept in {kept})"
    assert complete(again, tmp_path / "home") == f"{url}  user {USER}, password in {kept}"
    assert first == again
    assert first["FLOWER_BASIC_AUTH"] == f"{USER}:{password}"
    assert len(password) >= 16


@pytest.mark.parametrize("way", ["FLOWER_BASIC_AUTH", "FLOWER_AUTH"])
def test_a_way_in_of_ones_own_is_the_only_one(tmp_path: Path, way: str) -> None:
    variables = {way: "ada:secret"}
    said = complete(variables, tmp_path)
    assert {key for key in variables if key.endswith("AUTH")} == {way}
    assert variables["FLOWER_ADDRESS"] == "127.0.0.1"
    assert said.endswith(f"  for those that {way} admits")
    assert "secret" not in said


def test_nothing_is_kept_where_nothing_is_needed(tmp_path: Path) -> None:
    given = {"FLOWER_PORT": "5555", "FLOWER_BASIC_AUTH": "ada:secret", "FLOWER_ADDRESS": "192.0.2.1"}
    assert complete(dict(given), tmp_path).startswith("http://192.0.2.1:5555 ")
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_told_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "flower.json").write_text("{}")
    with pytest.raises(SettingsError, match="is damaged: delete it"):
        Monitor.of(tmp_path)
