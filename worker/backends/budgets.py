"""Budgets: the requests and tokens a minute of one backend, over all processes, and the pauses its provider asks for.

They stand in the broker's Redis, on its clock: no window of 60 s holds more than the limit, whoever sends. Without
Redis the same rule holds for each process by itself. A local model has neither limits nor pauses, and costs a look.
"""

import logging
import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker import keyspace
from worker.configuration.addresses import redis_url
from worker.errors import ProviderUnavailable
from worker.observability import events
from worker.observability.logs import log_fields

# What a rate lets through at once, as a share of its limit; the rest is spread evenly. A request of a drainer takes
# half of it at most, so that one that comes late misses nothing. Questions come singly and are large.
DRAINING_BURST, CHAT_BURST = 0.06, 0.5
# a second more than a minute: what is taken now reaches the provider a moment later
WINDOW_SECONDS = 61.0
PATIENCE_SECONDS = 5.0  # of a request that a caller waits for
MAX_PAUSE_SECONDS = (
    600.0  # then one request asks again: an operator may have mended what a long pause was for
)
ALONE_SECONDS = 5.0  # until Redis is tried again

logger = logging.getLogger("vector_index.budget")


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A limit per minute as two times, in seconds: to earn one unit, and to earn what may be taken at once.

    What is taken in a window W is at most the burst and W / unit. So the rate is that of the rest of the limit:
    the sum, counted in whole units, stays within the limit.
    """

    unit_seconds: float = 0.0  # 0: no limit
    burst_seconds: float = 0.0

    @classmethod
    def of(cls, per_minute: int | None, burst: float) -> "Rate":
        if per_minute is None:
            return cls()
        units = max(1, int(per_minute * burst))
        unit_seconds = WINDOW_SECONDS / (per_minute - units + 1)
        return cls(unit_seconds=unit_seconds, burst_seconds=units * unit_seconds)


class Budget:
    """The limits of one backend. Safe in threads; nothing is raised when Redis is away."""

    def __init__(
        self,
        url: str,  # of Redis; empty: of this process alone
        name: str,  # kind and name of the backend
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        burst: float = DRAINING_BURST,
    ) -> None:
        self.name = name
        self._requests = Rate.of(requests_per_minute, burst)
        self._tokens = Rate.of(tokens_per_minute, burst)
        self._most_tokens = tokens_per_minute or sys.maxsize
        self._burst_tokens = max(1, int(tokens_per_minute * burst)) if tokens_per_minute else sys.maxsize
        self.request_tokens = max(1, int(tokens_per_minute * burst / 2)) if tokens_per_minute else None
        self._client = None
        if url:
            # a caller waits behind these: without Redis it goes on in a second
            self._client = redis.Redis.from_url(
                redis_url(url), socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)
            )
            self._script = self._client.register_script(
                (files("worker.backends") / "budgets.lua").read_text()
            )
        self._lock = threading.Lock()
        self._alone_until = 0.0  # monotonic seconds
        self._times = [0.0, 0.0, 0.0]  # as the script's, of this process, in monotonic seconds

    def take(self, tokens: int, *, patience_seconds: float = 0.0) -> float:
        """Take one request of so many tokens: the seconds to wait.

        More than the patience: nothing was taken, ask again then. Else the request is due after that time, which
        puts it before everybody who asks later. A request above the burst always waits, also where nobody sends; of
        one above the limit itself, the provider decides.
        """
        costs = (self._requests.unit_seconds, self._counted(tokens) * self._tokens.unit_seconds)
        return self._run(0.0, patience_seconds, costs)

    def give_back(self, *, requests: int = 0, tokens: int = 0, held_seconds: float) -> None:
        """Return what was taken `held_seconds` ago and not used; negative tokens are taken in addition.

        What would have been earned again meanwhile is kept: it may have been taken by somebody already.
        """
        units = (requests * self._requests.unit_seconds, self._counted(tokens) * self._tokens.unit_seconds)
        back = [min(unit, max(0.0, unit - held_seconds)) for unit in units]
        if any(back):
            self._return(back)

    def pause(self, seconds: float) -> float:
        """Let nobody send for so long, MAX_PAUSE_SECONDS at most; the seconds."""
        seconds = min(seconds, MAX_PAUSE_SECONDS)
        if seconds > 0:
            events.pause(self.name, seconds)
            self._run(seconds, 0.0, (0.0, 0.0))
        return seconds

    @contextmanager
    def first(self, tokens: int, *, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
        """Around a request that a caller waits for: it goes before the drainers, or ends with a sentence.

        Waits for its patience at most, and keeps to the pause that the provider names. What is above the burst is
        owed: those who come later wait for it. Raises ProviderUnavailable.
        """
        owed = max(0, self._counted(tokens) - self._burst_tokens)
        wait = self.take(min(tokens, self._burst_tokens), patience_seconds=patience_seconds)
        if wait > patience_seconds:
            raise ProviderUnavailable(
                f"the {self.name} backend may send again in {wait:.0f} s: ask again then, or raise "
                "REQUESTS_PER_MINUTE or TOKENS_PER_MINUTE as far as the provider allows",
                retry_after_seconds=wait,
                rate_limited=True,
            )
        self.give_back(tokens=-owed, held_seconds=0.0)
        events.budget_wait(self.name, wait)
        time.sleep(wait)
        try:
            yield
        except ProviderUnavailable as error:
            if error.retry_after_seconds is not None:
                self.pause(error.retry_after_seconds)
            raise

    def _counted(self, tokens: int) -> int:
        """At most a minute of them: a limit below one request is a mistake, not a debt of hours."""
        return min(tokens, self._most_tokens)

    def _run(self, pause: float, patience: float, costs: tuple[float, float]) -> float:
        """The script, in Redis or here."""
        bursts = (self._requests.burst_seconds, self._tokens.burst_seconds)
        if self._shared():
            times = (pause, patience, costs[0], bursts[0], costs[1], bursts[1])
            try:
                wait = self._script(
                    keys=[keyspace.BUDGET + self.name], args=[_microseconds(time) for time in times]
                )
                return float(wait) / 1e6
            except redis.RedisError as error:
                self._go_alone(error)
        with self._lock:
            now = time.monotonic()
            paused, *due = (max(at, now) for at in self._times)
            if pause:
                self._times = [max(paused, now + pause), *due]
                return 0.0
            waits = [at + cost - burst - now for at, cost, burst in zip(due, costs, bursts, strict=True)]
            wait = max(paused - now, *waits)
            if wait <= patience:
                due = [max(at, now + wait) + cost for at, cost in zip(due, costs, strict=True)]
                self._times = [paused, *due]
            return wait

    def _return(self, back: list[float]) -> None:
        if self._shared():
            assert self._client is not None
            try:
                with self._client.pipeline(transaction=False) as pipe:
                    for field, seconds in zip(("requests", "tokens"), back, strict=True):
                        pipe.hincrby(keyspace.BUDGET + self.name, field, -_microseconds(seconds))
                    pipe.execute()
            except redis.RedisError as error:
                self._go_alone(error)
        else:
            with self._lock:
                self._times[1:] = [at - seconds for at, seconds in zip(self._times[1:], back, strict=True)]

    def _shared(self) -> bool:
        return self._client is not None and time.monotonic() >= self._alone_until

    def _go_alone(self, error: redis.RedisError) -> None:
        """Begin with everything taken: this process may just have sent what the shared budget allowed."""
        with self._lock:
            now = time.monotonic()
            bursts = (self._requests.burst_seconds, self._tokens.burst_seconds)
            if now - self._alone_until > ALONE_SECONDS:
                logger.warning("limits_not_shared", extra=log_fields(backend=self.name, error=str(error)))
                self._times[1:] = [now + burst for burst in bursts]
            self._alone_until = now + ALONE_SECONDS


def _microseconds(seconds: float) -> int:
    return math.ceil(seconds * 1e6)
