"""A stand-in for a provider of models: OpenAI's HTTP, deterministic vectors, answers that a test sets, and counts.

In a test: `with Provider(latency_seconds=0.05) as provider: ... provider.url ... provider.stats()`.
As a process of its own: `python -m tests.provider --latency 0.05` prints its address as one line of JSON;
`GET /stats` answers with the counts, which so outlive the workers that a test kills.
"""

import argparse
import base64
import json
import re
import socket
import socketserver
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Self

import bpe_openai
import numpy as np

# of OpenAI's embedding models
MAX_INPUT_TOKENS = 8_191
MAX_REQUEST_TOKENS = 300_000
MAX_REQUEST_INPUTS = 2_048


class Rejection(Exception):
    """An answer in the shape of OpenAI's errors."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, kind: str = "invalid_request_error"
    ):
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": "input", "code": code}}


@dataclass(frozen=True, kw_only=True)
class Stats:
    """What reached the provider. All but `requests` and `refused` count only requests that it answered."""

    requests: int  # of any outcome
    refused: int  # requests answered with an error
    inputs: int
    tokens: int  # cl100k
    distinct: int  # different texts
    repeated: int  # inputs whose text had been embedded before
    max_inputs: int  # of one request
    max_tokens: int  # of one request
    max_parallel: int  # requests in flight at once


class Provider:
    """An HTTP server on a free port of the loopback interface.

    A request with an input that contains `refuse` gets HTTP 400; it and `latency_seconds` may be set anew at
    any time. Vectors are bags of hashed tokens, of length one, so that texts with equal words are near.

    Chat: every prompt gets `answer`, in words where it is streamed, `word_seconds` apart; after `cut_after` words a
    stream breaks off without a word. The next `failures` prompts get that HTTP status. `prompts` has all bodies.
    """

    answer = "The answer stands in the first passage [1]."
    word_seconds = 0.0
    cut_after: int | None = None
    reports_usage = True

    def __init__(
        self,
        *,
        latency_seconds: float = 0.0,
        dimensions: int = 1536,
        refuse: str | None = None,
        port: int = 0,
    ) -> None:
        self.latency_seconds = latency_seconds
        self.dimensions = dimensions
        self.refuse = refuse
        self.routes: dict[tuple[str, str], Callable[[Any], dict[str, Any] | Iterator[bytes]]] = {
            ("POST", "/embeddings"): self.embeddings,
            ("POST", "/chat/completions"): self.chat,
            ("GET", "/prompts"): lambda _: {"prompts": self.prompts},
            ("GET", "/stats"): lambda _: asdict(self.stats()),
        }
        self._lock = threading.Lock()
        self._parallel = 0
        self.reset()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.provider = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="provider")

    @property
    def url(self) -> str:
        """What OPENAI_BASE_URL wants: with `/v1`, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def reset(self) -> None:
        """Forget all counts."""
        with self._lock:
            self._texts: Counter[bytes] = Counter()
            self._requests = self._refused = self._tokens = 0
            self._max_inputs = self._max_tokens = self._max_parallel = 0
            self.prompts: list[dict[str, Any]] = []
            self.failures: list[int] = []

    def stats(self) -> Stats:
        with self._lock:
            inputs = self._texts.total()
            return Stats(
                requests=self._requests,
                refused=self._refused,
                inputs=inputs,
                tokens=self._tokens,
                distinct=len(self._texts),
                repeated=inputs - len(self._texts),
                max_inputs=self._max_inputs,
                max_tokens=self._max_tokens,
                max_parallel=self._max_parallel,
            )

    def times_embedded(self, text: str) -> int:
        """How often exactly this string was embedded."""
        with self._lock:
            return self._texts[_digest(text)]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def embeddings(self, body: Any) -> dict[str, Any]:
        """Answer POST /v1/embeddings; raises Rejection as OpenAI would."""
        with self._lock:
            self._requests += 1
            self._parallel += 1
            self._max_parallel = max(self._max_parallel, self._parallel)
        try:
            time.sleep(self.latency_seconds)
            return self._embed(body)
        except Rejection:
            with self._lock:
                self._refused += 1
            raise
        finally:
            with self._lock:
                self._parallel -= 1

    def chat(self, body: Any) -> dict[str, Any] | Iterator[bytes]:
        """Answer POST /v1/chat/completions; raises Rejection as OpenAI would."""
        with self._lock:
            self.prompts.append(body)
            status = self.failures.pop(0) if self.failures else None
        time.sleep(self.latency_seconds)
        if status:
            raise Rejection(
                status, "The server had an error while processing your request.", kind="server_error"
            )
        if body.get("stream"):
            return self._streamed(body)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": self.answer},
            "finish_reason": "stop",
        }
        return {**_completion(body, "chat.completion"), "choices": [choice], "usage": self._usage(body)}

    def _streamed(self, body: Any) -> Iterator[bytes]:
        words = re.findall(r"\S+\s*", self.answer)
        for at, word in enumerate(words):
            if at == self.cut_after:
                return
            yield _event(body, [{"index": 0, "delta": {"content": word}, "finish_reason": None}])
            time.sleep(self.word_seconds)
        yield _event(body, [{"index": 0, "delta": {}, "finish_reason": "stop"}])
        if body.get("stream_options", {}).get("include_usage") and self.reports_usage:
            yield _event(body, [], self._usage(body))
        yield b"data: [DONE]\n\n"

    def _usage(self, body: Any) -> dict[str, int]:
        prompt, answer = prompt_tokens(body), len(_encode(self.answer))
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}

    def _embed(self, body: Any) -> dict[str, Any]:
        texts = _texts(body)
        if self.refuse is not None and any(self.refuse in text for text in texts):
            raise Rejection(
                400, "The input was rejected by our content policy.", code="content_policy_violation"
            )
        tokens = [_encode(text) for text in texts]
        counts = [len(ids) for ids in tokens]
        _check_limits(counts)
        dimensions = body.get("dimensions", self.dimensions)
        if not isinstance(dimensions, int) or not 1 <= dimensions <= 4_096:
            raise Rejection(400, f"Invalid value for 'dimensions': {dimensions}.", code="invalid_value")
        plain = body.get("encoding_format", "float") == "float"
        vectors = (_vector(ids, dimensions) for ids in tokens)
        data = [
            {
                "object": "embedding",
                "index": at,
                "embedding": vector.tolist() if plain else base64.b64encode(vector.tobytes()).decode(),
            }
            for at, vector in enumerate(vectors)
        ]
        total = sum(counts)
        with self._lock:
            self._texts.update(_digest(text) for text in texts)
            self._tokens += total
            self._max_inputs = max(self._max_inputs, len(texts))
            self._max_tokens = max(self._max_tokens, total)
        usage = {"prompt_tokens": total, "total_tokens": total}
        return {"object": "list", "data": data, "model": body.get("model"), "usage": usage}


def prompt_tokens(body: Any) -> int:
    """Of a chat request, as OpenAI counts: 4 tokens for each message and 3 for all (cl100k)."""
    return sum(len(_encode(message["content"])) + 4 for message in body["messages"]) + 3


def _completion(body: Any, kind: str) -> dict[str, Any]:
    return {"id": "chat-1", "object": kind, "created": 1, "model": body.get("model")}


def _event(body: Any, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
    chunk = {**_completion(body, "chat.completion.chunk"), "choices": choices, "usage": usage}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _texts(body: Any) -> list[str]:
    if not isinstance(body, dict) or "model" not in body:
        raise Rejection(400, "you must provide a model parameter")
    texts = body.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Rejection(400, "'$.input' is invalid: expected a string or a non-empty array of strings.")
    if "" in texts:
        raise Rejection(400, "Invalid 'input': input cannot be an empty string.")
    return texts


def _check_limits(counts: list[int]) -> None:
    if len(counts) > MAX_REQUEST_INPUTS:
        raise Rejection(
            400,
            f"Invalid 'input': array too long. Expected an array with maximum length {MAX_REQUEST_INPUTS}, "
            f"but got an array with length {len(counts)} instead.",
            code="array_above_max_length",
        )
    if max(counts) > MAX_INPUT_TOKENS:
        raise Rejection(
            400,
            f"This model's maximum context length is {MAX_INPUT_TOKENS} tokens, "
            f"however you requested {max(counts)} tokens. Please reduce your prompt.",
            code="context_length_exceeded",
        )
    if sum(counts) > MAX_REQUEST_TOKENS:
        raise Rejection(
            400,
            f"Requested {sum(counts)} tokens, max {MAX_REQUEST_TOKENS} tokens per request",
            code="max_tokens_per_request",
            kind="max_tokens_per_request",
        )


def _encode(text: str) -> list[int]:
    # counted here, not by the code under test; in pieces, as bpe_openai refuses a million characters
    pieces = (text[at : at + 100_000] for at in range(0, len(text), 100_000))
    return [token for piece in pieces for token in _encoding().encode_ordinary(piece)]


@cache
def _encoding() -> Any:
    return bpe_openai.get_encoding("cl100k_base")  # reads its tables anew at each call: 9 ms


def _vector(tokens: list[int], dimensions: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    # Fibonacci hashing spreads neighbouring token numbers; the root keeps frequent words from ruling
    places = (np.array(tokens, dtype=np.uint64) * np.uint64(2_654_435_761) >> np.uint64(8)) % np.uint64(
        dimensions
    )
    bag = np.sqrt(np.bincount(places.astype(np.intp), minlength=dimensions))
    return np.asarray(bag / np.linalg.norm(bag), dtype="<f4")


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class _Server(socketserver.ThreadingTCPServer):
    """Without http.server's look-up of the host's name, and leaving no thread behind when closed."""

    allow_reuse_address = True
    request_queue_size = 128
    provider: Provider

    def __init__(self, *arguments: Any) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that went away: tests kill them on purpose
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        for connection in tuple(self.connections):  # kept alive by a client: its thread waits for a request
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # header and body in one packet
    server: _Server

    def do_GET(self) -> None:
        self.answer(None)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            body = json.loads(data)
        except ValueError:
            self.send(400, Rejection(400, "We could not parse the JSON body of your request.").body)
        else:
            self.answer(body)

    def answer(self, body: Any) -> None:
        route = self.server.provider.routes.get((self.command, self.path.removeprefix("/v1")))
        try:
            if route is None:
                raise Rejection(404, f"Invalid URL ({self.command} {self.path})")
            status, answer = 200, route(body)
        except Rejection as rejection:
            status, answer = rejection.status, rejection.body
        self.send(status, answer)

    def send(self, status: int, answer: dict[str, Any] | Iterator[bytes]) -> None:
        if not isinstance(answer, dict):
            self.stream(answer)
            return
        payload = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def stream(self, events: Iterator[bytes]) -> None:
        self.close_connection = True  # which is the end of the body, too
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events:
            self.wfile.write(event)
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """The counts say it all."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.provider", description=__doc__)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--dimensions", type=int, default=1536)
    parser.add_argument("--refuse", help="answer 400 to inputs that contain this")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    arguments = parser.parse_args()
    provider = Provider(
        latency_seconds=arguments.latency,
        dimensions=arguments.dimensions,
        refuse=arguments.refuse,
        port=arguments.port,
    )
    with provider, suppress(KeyboardInterrupt):
        print(json.dumps({"url": provider.url}), flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
