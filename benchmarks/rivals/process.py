"""The runner's side of a contender: its process, and what a command costs."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import psutil

from benchmarks.rivals import environments
from benchmarks.rivals.contestants import Entry
from benchmarks.rivals.resources import Memory, cpu_seconds, postmaster, tree
from benchmarks.rivals.scenarios import PATIENCE_SECONDS, Scenario
from benchmarks.rivals.standin import StandIn
from benchmarks.rivals.table import percentile

REST_SECONDS = 2.0  # before each measured command, for what a start or the last command has left to do

QUIET = {
    "OPENAI_API_KEY": "none",
    "HF_HUB_OFFLINE": "1",
    "LANGSMITH_TRACING": "false",
    "ANONYMIZED_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
}


class Failed(Exception):
    """A contender has ended, or took too long; the end of its log."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where contenders run: the same for all."""

    provider: StandIn
    environments: Path
    folder: Path  # for documents and logs
    timeout_seconds: float


class Contestant:
    def __init__(
        self,
        setting: Setting,
        process: "subprocess.Popen[str]",
        answers: TextIO,
        log: Path,
        database_url: str,
    ) -> None:
        self.setting, self.process, self.answers, self.log = setting, process, answers, log
        self.tree = psutil.Process(process.pid)
        self.postgres = postmaster(database_url)

    def measured(self, scenario: Scenario, documents: Path) -> dict[str, Any]:
        """Run a scenario; its seconds, costs and counts. It begins after a rest, so that no start is measured."""
        before = self.ask({"do": "load", "path": str(documents)})
        time.sleep(REST_SECONDS)
        counted = self.setting.provider.reset()
        cpu, postgres = cpu_seconds(self.tree), self._postgres_seconds()
        with Memory(self.tree) as memory:
            answer = self.ask({"do": scenario.command, "patience_seconds": PATIENCE_SECONDS})
        cpu, postgres = cpu_seconds(self.tree) - cpu, self._postgres_seconds() - postgres
        counted = self.setting.provider.counts()
        new_rows, done = answer["rows"] - before["rows"], answer["documents"]
        units = done if scenario.after else new_rows
        return {
            **answer,
            "documents": done,
            "rate": None if scenario.is_latency else done / answer["seconds"],
            "client_seconds": cpu,
            "postgres_seconds": postgres,
            "client_ms": 1000 * cpu / units,
            "postgres_ms": 1000 * postgres / units if self.postgres else None,
            "rows": new_rows,
            "pss_mb": memory.peak_mb,
            "largest_mb": memory.largest_mb,
            "tokens_per_request": counted["tokens"] / max(counted["requests"] - counted["refused"], 1),
            "provider_seconds": counted["cpu_seconds"],
            **{name: counted[name] for name in ("requests", "refused", "inputs", "max_parallel")},
            **_latencies(answer.pop("latencies", None)),
        }

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Send a command and return its answer. Raises Failed."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        seconds, end = self.setting.timeout_seconds, time.monotonic() + self.setting.timeout_seconds
        timer = threading.Timer(seconds, self.kill)
        timer.start()
        line = self.answers.readline()
        timer.cancel()
        if not line:
            late = f"it took more than {seconds:g} s, see --timeout. " if time.monotonic() >= end else ""
            raise Failed(late + self.log.read_text(errors="replace")[-500:])
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        for process in reversed(tree(self.tree)):
            with suppress(psutil.Error):
                process.kill()

    def _postgres_seconds(self) -> float:
        return cpu_seconds(self.postgres) if self.postgres else 0.0


@contextmanager
def running(entry: Entry, setting: Setting, database_url: str, warm: Path) -> Iterator[Contestant]:
    """Start a contender and wait until it has warmed up. Raises Failed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= QUIET | {
        "OPENAI_BASE_URL": setting.provider.url,
        "LLM_USER_PATH": str(setting.folder / "llm"),
        "PYTHONPATH": str(environments.ROOT),
        "RIVALS_DATABASE_URL": database_url,
        "RIVALS_VARIANT": entry.variant,
        "RIVALS_WARM": str(warm),
        "RIVALS_FOLDER": str(setting.folder),
    }
    program = Path(sys.executable)
    if entry.environment:
        program = environments.python(setting.environments, entry.environment)
        environment["TIKTOKEN_CACHE_DIR"] = str(environments.tokens(setting.environments, entry.environment))
    log = setting.folder / f"{entry.name}.log"
    reading, writing = os.pipe()
    environment["RIVALS_ANSWERS"] = str(writing)
    with os.fdopen(reading) as answers, log.open("w") as output:
        process = subprocess.Popen(
            [program, "-m", f"benchmarks.rivals.contenders.{entry.name}"],
            env=environment,
            cwd=environments.ROOT,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            text=True,
            pass_fds=[writing],
        )
        os.close(writing)
        contestant = Contestant(setting, process, answers, log, database_url)
        try:
            contestant.answer()  # ready
            yield contestant
        finally:
            _stop(contestant)


def _stop(contestant: Contestant) -> None:
    """Let the contender stop what it started; kill what is left."""
    left = tree(contestant.tree)
    assert contestant.process.stdin is not None
    with suppress(BrokenPipeError):
        contestant.process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        contestant.process.wait(60)
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    contestant.process.wait()
    time.sleep(0.2)  # its sessions end


def _latencies(seconds: list[float] | None) -> dict[str, float]:
    if not seconds:
        return {}
    return {"p50_ms": 1000 * percentile(seconds, 0.5), "p95_ms": 1000 * percentile(seconds, 0.95)}
