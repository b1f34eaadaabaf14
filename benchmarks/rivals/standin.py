"""The stand-in of a provider as the runner sees it: a process of its own, and its ceiling."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from benchmarks.rivals import environments

CEILING_SECONDS = 1.0
CHUNK = "Some words of a chunk. " * 80  # 1.8 kB


class StandIn:
    def __init__(self, url: str) -> None:
        self.url = url  # for OPENAI_BASE_URL
        self.latency_seconds = 0.0

    def counts(self) -> dict[str, Any]:
        """The counts of embedding requests since the last reset."""
        return self._ask("stats")

    def reset(self, *, latency_seconds: float | None = None) -> dict[str, Any]:
        """Forget the counts, and set the latency if one is given."""
        return self._ask("reset", {} if latency_seconds is None else {"latency_seconds": latency_seconds})

    def ceiling(self) -> dict[str, float]:
        """Requests and inputs a second at no latency, over one connection that only sends and receives."""
        single = self._rate(inputs=1)
        full = self._rate(inputs=128)
        return {"requests_per_second": single, "inputs_per_second": 128 * full}

    def _rate(self, inputs: int) -> float:
        address = urlsplit(self.url)
        body = json.dumps(
            {"input": [f"{at} {CHUNK}" for at in range(inputs)], "model": "any", "encoding_format": "base64"}
        ).encode()
        head = f"POST {address.path}/embeddings HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        done, end = 0, time.perf_counter() + CEILING_SECONDS
        with socket.create_connection((address.hostname, address.port)) as connection:
            while time.perf_counter() < end:
                connection.sendall(head + body)
                _receive(connection)
                done += 1
        return done / CEILING_SECONDS

    def _ask(self, what: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = Request(f"{self.url}/{what}", data=json.dumps(body or {}).encode(), method="POST")
        with urlopen(request, timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
        return answer


@contextmanager
def running() -> Iterator[StandIn]:
    command = [sys.executable, "-m", "benchmarks.rivals.provider"]
    with subprocess.Popen(command, cwd=environments.ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield StandIn(json.loads(process.stdout.readline())["url"])
        finally:
            process.terminate()


def _receive(connection: socket.socket) -> None:
    received = bytearray()
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += connection.recv(1 << 16)
    length = int(bytes(received[:end]).lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    missing = end + 4 + length - len(received)
    while missing > 0:
        missing -= len(connection.recv(1 << 20))
