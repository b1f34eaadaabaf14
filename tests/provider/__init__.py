"""A stand-in for a provider of models: OpenAI's HTTP API, deterministic vectors, fixed answers, counts and faults.

In a test: `with Provider(latency_seconds=0.05) as provider: ... provider.url ... provider.stats()`.
In its own process: `python -m tests.provider --latency 0.05` prints its URL as one line of JSON. Control it by HTTP:

- `GET /stats`: the counts; they survive workers that a test kills.
- `GET /requests`: the last requests received.
- `POST /faults`: plan a fault; {"name": ..., "path": ..., "times": ..., and the fault's own arguments}.
- `POST /times`: how often a text was embedded; {"text": ...}.
- `POST /reset`: forget all counts, requests and faults.
"""

import json
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self

from tests.provider import answers, embeddings, rerank
from tests.provider.answers import prompt_tokens
from tests.provider.faults import FAULTS, Fault
from tests.provider.http import Dropped, Event, Rejection, Reply, Request, Server

__all__ = ["FAULTS", "Provider", "Request", "Stats", "prompt_tokens"]

EMBEDDINGS, CHAT, RESPONSES, COMPLETIONS = "/embeddings", "/chat/completions", "/responses", "/completions"
RERANK = "/rerank"
SHAPES = {
    CHAT: (answers.chat, answers.chat_events),
    RESPONSES: (answers.response, answers.response_events),
    COMPLETIONS: (answers.completion, answers.completion_events),
}
AWAY_SECONDS = 0.5  # how long a crashed provider is down
KEPT_REQUESTS = 500  # older ones are forgotten


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Counts of embedding requests, except for the last two fields. Inputs and tokens are of successful requests."""

    requests: int  # with any outcome
    refused: int  # requests answered with an error
    inputs: int
    tokens: int  # cl100k
    distinct: int  # different texts embedded
    repeated: int  # inputs whose text had been embedded before
    max_inputs: int  # in one request
    max_tokens: int  # in one request
    max_parallel: int  # requests in flight at once
    connections: int  # opened by any client for any path
    faults: int  # planned faults that hit a request to any model


@dataclass(kw_only=True)
class _Planned:
    fault: Fault
    path: str | None  # None: any
    times: int | None  # requests that it will still hit; None: all
    share: float  # share of the requests that it hits


class Provider:
    """An HTTP server on a free port of the loopback interface.

    An embedding request with an input that contains `refuse` gets HTTP 400. An input that contains `crash` takes the
    server down: all requests of the next AWAY_SECONDS are reset. Chat Completions, Responses and Completions return
    `answer`; a stream sends its words `word_seconds` apart. /rerank answers in the form of `reranker`, with
    `rerank_scores`. Each response is delayed by `latency_seconds`. Tests may change all of these at any time; a lower
    latency applies to waiting requests too.

    `inject` plans a fault. `requests` has the last KEPT_REQUESTS requests to a model, `prompts` the bodies of those
    that ask for an answer.
    """

    answer = "The answer stands in the first passage [1]."
    word_seconds = 0.0
    reranker = "Cohere"  # the server whose form of the API /rerank has, a key of rerank.SHAPES

    @staticmethod
    def rerank_scores(texts: Sequence[str]) -> Sequence[float]:
        """The score of each passage: this one reverses their order."""
        return [at / len(texts) for at in range(len(texts))]

    def __init__(
        self,
        *,
        latency_seconds: float = 0.0,
        dimensions: int = 1536,
        refuse: str | None = None,
        crash: str | None = None,
        port: int = 0,
    ) -> None:
        self.latency_seconds = latency_seconds
        self.dimensions = dimensions
        self.refuse = refuse
        self.crash = crash
        self._lock = Lock()
        self._parallel = 0
        self._server = Server(port, self.handle)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), name="provider")
        self.reset()

    @property
    def url(self) -> str:
        """The value for OPENAI_BASE_URL: with `/v1`, without a trailing slash."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def reset(self) -> None:
        """Forget all counts, requests and faults."""
        with self._lock:
            self._texts: Counter[bytes] = Counter()
            self._requests = self._refused = self._tokens = 0
            self._max_inputs = self._max_tokens = self._max_parallel = self._faults = 0
            self._earlier_connections = self._server.accepted
            self.requests: deque[Request] = deque(maxlen=KEPT_REQUESTS)
            self._planned: list[_Planned] = []
            self._up_at = 0.0  # monotonic seconds

    def inject(
        self,
        name: str,
        *,
        path: str | None = None,
        times: int | None = 1,
        share: float = 1.0,
        **arguments: Any,
    ) -> None:
        """Plan a fault of `FAULTS` for the next requests to a model, after the faults already planned.

        `path`: such as "/embeddings"; None: any. `times`: how many requests it hits; None: all until `reset`.
        `share`: the random share of requests that it hits.
        """
        fault = FAULTS[name](**arguments)
        with self._lock:
            self._planned.append(_Planned(fault=fault, path=path, times=times, share=share))

    @property
    def prompts(self) -> list[dict[str, Any]]:
        """The bodies of the requests for an answer, oldest first."""
        with self._lock:
            return [request.body for request in self.requests if request.path in SHAPES]

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
                connections=self._server.accepted - self._earlier_connections,
                faults=self._faults,
            )

    @property
    def open_connections(self) -> int:
        return len(self._server.connections)

    def times_embedded(self, text: str) -> int:
        """How often exactly this text was embedded."""
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

    def handle(self, request: Request) -> Reply:
        """Answer a request; raises Rejection where OpenAI returns an error, and whatever a planned fault raises."""
        if request.method == "POST" and request.path == EMBEDDINGS:
            return self._counted(request)
        if request.method == "POST" and request.path in SHAPES:
            return self._model(request, lambda: self._answer(request))
        if request.method == "POST" and request.path == RERANK:
            return self._model(request, lambda: self._rerank(request.body))
        return Reply(body=self._control(request))

    def _rerank(self, body: Any) -> Reply:
        return Reply(body=json.dumps(rerank.answer(self.reranker, body, self.rerank_scores)).encode())

    def _model(self, request: Request, normal: Callable[[], Reply]) -> Reply:
        with self._lock:
            self.requests.append(request)
        if not isinstance(request.body, dict):
            raise Rejection(400, "We could not parse the JSON body of your request.")
        self._wait()
        if self._is_away(request):
            raise Dropped
        fault = self._next_fault(request.path)
        return fault(request, normal) if fault else normal()

    def _wait(self) -> None:
        arrived, closing = time.monotonic(), self._server.closing
        while (left := arrived + self.latency_seconds - time.monotonic()) > 0 and not closing.is_set():
            closing.wait(min(left, 0.05))

    def _is_away(self, request: Request) -> bool:
        with self._lock:
            now = time.monotonic()
            if self.crash and now >= self._up_at and self.crash in str(request.body.get("input")):
                self._up_at = now + AWAY_SECONDS
                self._faults += 1
            return now < self._up_at

    def _next_fault(self, path: str) -> Fault | None:
        with self._lock:
            for planned in self._planned:
                if planned.path in (None, path) and random.random() < planned.share:
                    self._faults += 1
                    if planned.times is not None:
                        planned.times -= 1
                        if not planned.times:
                            self._planned.remove(planned)
                    return planned.fault
        return None

    def _control(self, request: Request) -> dict[str, Any]:
        match request.method, request.path:
            case "GET", "/stats":
                return asdict(self.stats())
            case "GET", "/requests":
                return {"requests": [asdict(received) for received in self.requests]}
            case "GET", "/models":
                return {"object": "list", "data": [{"id": "stand-in", "object": "model"}]}
            case "POST", "/faults":
                self.inject(**request.body)
                return {}
            case "POST", "/times":
                return {"times": self.times_embedded(request.body["text"])}
            case "POST", "/reset":
                self.reset()
                return {}
        raise Rejection(404, f"Invalid URL ({request.method} {request.path})")

    def _counted(self, request: Request) -> Reply:
        with self._lock:
            self._requests += 1
            self._parallel += 1
            self._max_parallel = max(self._max_parallel, self._parallel)
        refused = True
        try:
            reply = self._model(request, lambda: Reply(body=self._embed(request.body)))
            refused = reply.status >= 400
            return reply
        finally:
            with self._lock:
                self._parallel -= 1
                self._refused += refused

    def _answer(self, request: Request) -> Reply:
        whole, events = SHAPES[request.path]
        if request.streams:
            whole(request.body, "")  # validate before the first byte is sent
            return Reply(body=self._paced(events(request.body, self.answer)))
        return Reply(body=whole(request.body, self.answer))

    def _paced(self, events: Iterator[Event]) -> Iterator[Event]:
        for event in events:
            yield event
            if answers.is_word(event):
                time.sleep(self.word_seconds)

    def _embed(self, body: Any) -> dict[str, Any]:
        texts = embeddings.texts_of(body)
        if self.refuse is not None and any(self.refuse in text for text in texts):
            raise Rejection(
                400, "The input was rejected by our content policy.", code="content_policy_violation"
            )
        answer = embeddings.answer(body, list(map(embeddings.encode, texts)), dimensions=self.dimensions)
        tokens = answer["usage"]["total_tokens"]
        with self._lock:
            self._texts.update(map(_digest, texts))
            self._tokens += tokens
            self._max_inputs = max(self._max_inputs, len(texts))
            self._max_tokens = max(self._max_tokens, tokens)
        return answer


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
