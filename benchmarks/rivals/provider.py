"""A stand-in for OpenAI's API that costs little: embeddings, chat completions, counts, and its own ceiling.

    python -m benchmarks.rivals.provider

prints its URL as one line of JSON. That of the tests counts tokens exactly and plans faults: 4,000 inputs a second.
This one takes windows of a table of noise as vectors, and four bytes for a token: 28,000 inputs a second. It enforces
the limits of the API.

- `GET /stats`: the counts since the last reset.
- `POST /reset`: forget the counts; {"latency_seconds": ...} sets the latency of the next ones.
"""

import asyncio
import base64
import json
import resource
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np

DIMENSIONS = 1536
MAX_INPUT_TOKENS, MAX_REQUEST_TOKENS, MAX_INPUTS = 8_191, 300_000, 2_048
POSITIONS = 1 << 18  # of windows in the table
ANSWER = "The answer is in the first passage [1]."
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found"}


class Noise:
    """Vectors of length 1, within a few percent: a window of a table, at a place that the text decides."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        numbers = np.random.default_rng(7).standard_normal(POSITIONS + dimensions, dtype=np.float32)
        self.numbers = numbers / np.float32(dimensions**0.5)

    @cached_property
    def bytes(self) -> bytes:
        return self.numbers.astype("<f4").tobytes()

    @cached_property
    def written(self) -> list[str]:
        return [f"{number:.7f}" for number in self.numbers.tolist()]

    def encoded(self, text: str, length: int) -> str:
        at = self._place(text)
        return f'"{base64.b64encode(self.bytes[4 * at : 4 * (at + length)]).decode()}"'

    def floats(self, text: str, length: int) -> str:
        at = self._place(text)
        return f"[{','.join(self.written[at : at + length])}]"

    def _place(self, text: str) -> int:
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") % POSITIONS


@dataclass
class Counts:
    requests: int = 0
    refused: int = 0
    inputs: int = 0
    tokens: int = 0  # four bytes each
    chats: int = 0
    max_parallel: int = 0
    cpu_started: float = field(default_factory=lambda: _cpu_seconds())

    def as_json(self) -> dict[str, Any]:
        counts = {name: value for name, value in vars(self).items() if name != "cpu_started"}
        return {**counts, "cpu_seconds": _cpu_seconds() - self.cpu_started}


class Refused(Exception):
    """OpenAI returns HTTP 400 with this message."""


class Provider:
    def __init__(self, dimensions: int) -> None:
        self.noise = Noise(dimensions)
        self.latency_seconds = 0.0
        self.counts = Counts()
        self.parallel = 0

    def reset(self, body: dict[str, Any]) -> None:
        self.latency_seconds = body.get("latency_seconds", self.latency_seconds)
        self.counts = Counts()

    def embed(self, body: dict[str, Any]) -> str:
        given = body["input"]
        texts = [given] if isinstance(given, str) else given
        if not 0 < len(texts) <= MAX_INPUTS:
            raise Refused(f"'input' has {len(texts)} elements; 1 to {MAX_INPUTS} are allowed")
        tokens = [(len(text.encode()) + 3) // 4 for text in texts]
        if not min(tokens):
            raise Refused("input cannot be an empty string")
        if max(tokens) > MAX_INPUT_TOKENS:
            raise Refused(f"This model's maximum context length is {MAX_INPUT_TOKENS} tokens")
        total = sum(tokens)
        if total > MAX_REQUEST_TOKENS:
            raise Refused(f"Requested {total} tokens, max {MAX_REQUEST_TOKENS} tokens per request")
        length = body.get("dimensions") or self.noise.dimensions
        write = self.noise.encoded if body.get("encoding_format") == "base64" else self.noise.floats
        data = ",".join(
            f'{{"object":"embedding","index":{at},"embedding":{write(text, length)}}}'
            for at, text in enumerate(texts)
        )
        self.counts.inputs += len(texts)
        self.counts.tokens += total
        usage = f'{{"prompt_tokens":{total},"total_tokens":{total}}}'
        return f'{{"object":"list","model":"stand-in","data":[{data}],"usage":{usage}}}'


def completion(**choice: Any) -> str:
    name = "chat.completion.chunk" if "delta" in choice else "chat.completion"
    common = {"id": "chat", "object": name, "created": 0, "model": "stand-in"}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return json.dumps({**common, "choices": [{"index": 0, "finish_reason": None, **choice}], "usage": usage})


def whole_answer() -> str:
    return completion(message={"role": "assistant", "content": ANSWER}, finish_reason="stop")


def streamed_answer() -> str:
    deltas = [{"role": "assistant", "content": ""}, *({"content": f"{word} "} for word in ANSWER.split())]
    events = [completion(delta=delta) for delta in deltas]
    events += [completion(delta={}, finish_reason="stop"), "[DONE]"]
    return "".join(f"data: {event}\n\n" for event in events)


class Connection(asyncio.Protocol):
    """HTTP/1.1 with Content-Length, one request after the other: all that these clients send."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.received = bytearray()
        self.length: int | None = None  # of the request that is being received

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while self.length is not None or self._read_head():
            assert self.length is not None
            if len(self.received) < self.length:
                return
            body = bytes(self.received[: self.length])
            del self.received[: self.length]
            self.length = None
            self._dispatch(body)

    def _read_head(self) -> bool:
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self.received[:end].decode("latin-1")
        del self.received[: end + 4]
        first, *lines = head.split("\r\n")
        self.path = first.split(" ")[1].removeprefix("/v1")
        headers = {name.lower(): value for name, _, value in (line.partition(":") for line in lines)}
        self.length = int(headers.get("content-length", 0))
        return True

    def _dispatch(self, body: bytes) -> None:
        provider = self.provider
        if self.path not in ("/embeddings", "/chat/completions"):
            if self.path == "/reset":
                provider.reset(json.loads(body or b"{}"))
            self._reply(200, json.dumps(provider.counts.as_json()))
            return
        provider.parallel += 1
        provider.counts.max_parallel = max(provider.counts.max_parallel, provider.parallel)
        # at a latency of 0 too: other requests that are here already count as parallel
        asyncio.get_running_loop().call_later(
            provider.latency_seconds, self._answer, self.path, body, provider.counts
        )

    def _answer(self, path: str, body: bytes, counts: Counts) -> None:
        self.provider.parallel -= 1
        request = json.loads(body)
        if path == "/chat/completions":
            counts.chats += 1
            streams = bool(request.get("stream"))
            kind = "text/event-stream" if streams else "application/json"
            self._reply(200, streamed_answer() if streams else whole_answer(), kind)
            return
        counts.requests += 1
        try:
            self._reply(200, self.provider.embed(request))
        except Refused as error:
            counts.refused += 1
            self._reply(400, json.dumps({"error": {"message": str(error), "type": "invalid_request_error"}}))

    def _reply(self, status: int, text: str, kind: str = "application/json") -> None:
        if self.transport.is_closing():
            return
        body = text.encode()
        head = f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def serve(dimensions: int = DIMENSIONS) -> None:
    provider = Provider(dimensions)
    # rendered before the first request that asks for numbers
    assert provider.noise.written
    assert provider.noise.bytes
    server = await asyncio.get_running_loop().create_server(lambda: Connection(provider), "127.0.0.1", 0)
    print(json.dumps({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
