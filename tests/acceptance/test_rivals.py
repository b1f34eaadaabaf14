"""The comparison with rivals runs this project as a user starts it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.system import PATIENCE_SECONDS
from worker.services import Addresses


@pytest.mark.slow
def test_ours_runs_through_the_scenarios_of_an_index(services: Addresses, tmp_path: Path) -> None:
    run = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.rivals", "--contenders", "ours:small", "--repeats", "1"),
            *("--scenario", "bulk,unchanged,changed,edit,search,chat,mixed", "--documents", "6"),
            *("--latency", "0", "--database-url", services.database_url),
            *("--output", str(tmp_path / "measured.jsonl")),
        ],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert run.returncode == 0, run.stderr
    measured = [json.loads(line) for line in (tmp_path / "measured.jsonl").read_text().splitlines()]
    assert [row["scenario"] for row in measured] == [
        "bulk",
        "unchanged",
        "changed",
        "edit",
        "search",
        "chat",
        "mixed",
    ]
    assert not [row["error"] for row in measured if "error" in row]
    by_name = {row["scenario"]: row for row in measured}
    assert by_name["bulk"]["inputs"] == by_name["bulk"]["rows"] > 6
    assert by_name["unchanged"]["requests"] == 0
    assert by_name["edit"]["p50_ms"] > 0
    assert "| ours:small |" in run.stdout
