"""Text of documents can neither control a terminal nor end a command in an error."""

import io
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from worker.cli import run, streams
from worker.cli.output import print_result
from worker.observability.logs import JSONLines, Text, log_fields
from worker.observability.printing import dumps, printable

# clear the screen, set the title, write to the clipboard, an 8-bit escape, reversed text, an overwritten line
HOSTILE = "\x1b[2Ja \x1b]0;t\x07 \x1b]52;c;eA==\x1b\\ \x9b31mred \u202egnp.exe over\rwritten \x7f\u2028"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")


def test_control_characters_show_as_escapes() -> None:
    assert printable("\x1b[31mred\x9b0m\u202e\tü\nnext") == "\\x1b[31mred\\x9b0m\\u202e\tü\nnext"
    assert not CONTROL.search(printable(HOSTILE))


def test_json_keeps_every_value_and_has_no_control_character() -> None:
    assert not CONTROL.search(dumps({"text": HOSTILE}))
    assert json.loads(dumps({"text": HOSTILE})) == {"text": HOSTILE}


@pytest.mark.parametrize("as_json", [True, False])
def test_a_result_prints_no_control_character(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    print_result({"id": HOSTILE}, as_json, [f"one {HOSTILE}", "two\nthree"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (1 if as_json else 2)
    assert not CONTROL.search("".join(lines))


def test_an_error_prints_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["index", f"/nowhere/{HOSTILE}".replace("\x00", "")]) == 2
    error = capsys.readouterr().err
    assert "nowhere" in error
    assert not CONTROL.search(error.rstrip("\n"))


@pytest.mark.parametrize("form", [Text({}), JSONLines({})])
@pytest.mark.parametrize("fields", [{}, log_fields(id=HOSTILE, error=HOSTILE)])
def test_a_log_line_has_no_control_character(form: logging.Formatter, fields: dict[str, object]) -> None:
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, f"said {HOSTILE}", None, None)
    vars(record).update(fields)
    assert not CONTROL.search(form.format(record))


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize("as_json", [True, False])
def test_every_stream_prints_every_character(
    monkeypatch: pytest.MonkeyPatch, encoding: str, as_json: bool
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    streams.prepare_streams()
    print_result({"text": "smile 😀 “é” \udc80"}, as_json, ["smile 😀 “é” \udc80"])
    sys.stdout.flush()
    assert written.getvalue().startswith(b'{"text": "smile' if as_json else b"smile")
    if as_json:
        assert json.loads(written.getvalue())["text"] == "smile 😀 “é” \udc80"


def command(stdout: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose stdout goes where a shell's words say; its files have names beyond ASCII."""
    words = " ".join(map(shlex.quote, [sys.executable, "-m", "worker.cli", *arguments]))
    return subprocess.run(
        ["/bin/bash", "-c", f"set -o pipefail; {words} {stdout}"],
        env={**os.environ, "EMBEDDING_MODEL": "wordllama", **environment},
        capture_output=True,
        text=True,
        errors="replace",
        cwd=Path(__file__).parents[2],
        timeout=120,
    )


@pytest.mark.parametrize(
    ("stdout", "said"),
    [
        (">&-", ""),
        (">/dev/full", "vector-index: the output cannot be written (No space left on device)"),
        ("| true", ""),
    ],
)
def test_output_that_nobody_takes_ends_quietly_or_with_a_sentence(
    tmp_path: Path, stdout: str, said: str
) -> None:
    (tmp_path / "a “x”.txt").write_text(HOSTILE, encoding="utf-8")
    ended = command(stdout, "plan", str(tmp_path))
    assert ended.stderr.startswith(said)
    assert len(ended.stderr.splitlines()) == bool(said)


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_every_locale_reads_and_names_files_beyond_ascii(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "a “x”.txt").write_text("smile 😀 “é”", encoding="utf-8")
    (tmp_path / "b “y”.pdf").write_text("x")
    ended = command("", "plan", str(tmp_path), **environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "passed over 1 file" in ended.stdout
    found = json.loads(command("", "plan", str(tmp_path), "--json", **environment).stdout)
    assert found["passed_over_files"][0]["path"].endswith("b “y”.pdf")


def test_commands_print_through_one_module() -> None:
    folder = Path(streams.__file__).parent
    direct = re.compile(r"click\.s?echo\(|(?<![.\w])print\(|sys\.std(out|err)\.write")
    assert [file.name for file in folder.glob("*.py") if direct.search(file.read_text())] == ["streams.py"]
