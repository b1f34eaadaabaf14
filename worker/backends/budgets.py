"""Rate limits of one backend over all processes: requests and tokens per minute, and pauses (Retry-After).

The broker's Redis holds them, on its clock: all processes together stay within the limit in every window of 60 s. While
Redis is unavailable, each process keeps the limit by itself. The budget of a local model, which is without limits,
costs one call to Redis.
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

# The burst as a share of the limit; the rest is spread evenly over the minute. A request of a drainer takes at most
# half of the burst, so that a late request wastes nothing. Questions come one by one and are large.
DRAINING_BURST, CHAT_BURST = 0.06, 0.5
# a second more than a minute, since a request reaches the provider a moment after it was counted
WINDOW_SECONDS = 61.0
MAX_WAIT_SECONDS = 5.0  # for a request that a caller waits for
# after at most this pause, one request tries again: an operator may have removed the cause meanwhile
MAX_PAUSE_SECONDS = 600.0
REDIS_RETRY_SECONDS = 5.0  # after a failure of Redis, the time without it

logger = logging.getLogger("vector_index.budget")


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A limit per minute as two times: to earn one unit, and to earn a whole burst.

    A window W lets through at most the burst plus W / unit. So a unit is earned at the rate of the limit minus the
    burst, and the sum, in whole units, stays within the limit.
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
    """The rate limits of one backend. Safe in threads. Works without Redis, within one process."""

    def __init__(
        self,
        url: str,  # of Redis; empty: limits for this process alone
        name: str,  # kind and name of the backend, such as "embedding:default"
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        burst: float = DRAINING_BURST,
        account: str = "",  # whose limits these are, such as a digest of model and key; empty: the backend's name
    ) -> None:
        self.name = name
        self._key = keyspace.BUDGET + (account or name)
        self._requests = Rate.of(requests_per_minute, burst)
        self._tokens = Rate.of(tokens_per_minute, burst)
        self._most_tokens = tokens_per_minute or sys.maxsize
        self._burst_tokens = max(1, int(tokens_per_minute * burst)) if tokens_per_minute else sys.maxsize
        self.request_tokens = max(1, int(tokens_per_minute * burst / 2)) if tokens_per_minute else None
        self._client = None
        if url:
            # short timeouts, since a caller waits: without Redis it continues after a second
            self._client = redis.Redis.from_url(
                redis_url(url), socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)
            )
            self._script = self._client.register_script(
                (files("worker.backends") / "budgets.lua").read_text()
            )
        self._lock = threading.Lock()
        self._local_until = 0.0  # monotonic seconds
        self._times = [0.0, 0.0, 0.0]  # like those of the script, for this process, in monotonic seconds

    def take(self, tokens: int, *, max_wait_seconds: float = 0.0) -> float:
        """Take one request with its tokens from the budget, and return the seconds to wait before it.

        If the wait is above `max_wait_seconds`, nothing was taken: ask again after it. Otherwise the request has its
        place, ahead of all later ones. A request above the burst always waits. A request above the whole limit is
        counted as the limit, and the provider decides about it.
        """
        costs = (self._requests.unit_seconds, self._counted(tokens) * self._tokens.unit_seconds)
        return self._run(0.0, max_wait_seconds, costs)

    def refund(self, *, requests: int = 0, tokens: int = 0, held_seconds: float) -> None:
        """Return unused requests and tokens that were taken `held_seconds` ago; negative tokens are taken in addition.

        The part that has been earned again since then stays out: another request may have used it.
        """
        units = (requests * self._requests.unit_seconds, self._counted(tokens) * self._tokens.unit_seconds)
        back = [min(unit, max(0.0, unit - held_seconds)) for unit in units]
        if any(back):
            self._return(back)

    def pause(self, seconds: float) -> float:
        """Pause all requests of this backend, for at most MAX_PAUSE_SECONDS. Returns the seconds."""
        seconds = min(seconds, MAX_PAUSE_SECONDS)
        if seconds > 0:
            events.pause(self.name, seconds)
            self._run(seconds, 0.0, (0.0, 0.0))
        return seconds

    def rest(self, seconds: float) -> None:
        """Send nothing for this long, after a provider has not answered."""
        self._run(seconds, 0.0, (0.0, 0.0))

    @contextmanager
    def reserve(self, tokens: int, *, max_wait_seconds: float = MAX_WAIT_SECONDS) -> Iterator[None]:
        """Wrap a request that a caller waits for: it reserves the next place, ahead of the drainers.

        Waits at most `max_wait_seconds`, and starts a pause if the request raises one that the provider asked for.
        Tokens above the burst become a debt, which delays later requests. Raises ProviderUnavailable for a longer wait.
        """
        owed = max(0, self._counted(tokens) - self._burst_tokens)
        wait = self.take(min(tokens, self._burst_tokens), max_wait_seconds=max_wait_seconds)
        if wait > max_wait_seconds:
            raise ProviderUnavailable(
                f"the {self.name} backend may send again in {wait:.0f} s (rate limit or Retry-After): ask again then, "
                "or raise REQUESTS_PER_MINUTE or TOKENS_PER_MINUTE as far as the provider allows",
                retry_after_seconds=wait,
                rate_limited=True,
            )
        self.refund(tokens=-owed, held_seconds=0.0)
        events.budget_wait(self.name, wait)
        time.sleep(wait)
        try:
            yield
        except ProviderUnavailable as error:
            if error.retry_after_seconds is not None:
                self.pause(error.retry_after_seconds)
            raise

    def _counted(self, tokens: int) -> int:
        """Count at most one minute of tokens: a limit below a single request must not become a debt of hours."""
        return min(tokens, self._most_tokens)

    def _run(self, pause: float, max_wait: float, costs: tuple[float, float]) -> float:
        """Run the rule of budgets.lua, in Redis or in this process."""
        bursts = (self._requests.burst_seconds, self._tokens.burst_seconds)
        if self._uses_redis():
            times = (pause, max_wait, costs[0], bursts[0], costs[1], bursts[1])
            try:
                wait = self._script(keys=[self._key], args=[_microseconds(time) for time in times])
                return float(wait) / 1e6
            except redis.RedisError as error:
                self._fall_back_to_local(error)
        with self._lock:
            now = time.monotonic()
            paused, *due = (max(at, now) for at in self._times)
            if pause:
                self._times = [max(paused, now + pause), *due]
                return 0.0
            waits = [at + cost - burst - now for at, cost, burst in zip(due, costs, bursts, strict=True)]
            wait = max(paused - now, *waits)
            if wait <= max_wait:
                due = [max(at, now + wait) + cost for at, cost in zip(due, costs, strict=True)]
                self._times = [paused, *due]
            return wait

    def _return(self, back: list[float]) -> None:
        if self._uses_redis():
            assert self._client is not None
            try:
                with self._client.pipeline(transaction=False) as pipe:
                    for field, seconds in zip(("requests", "tokens"), back, strict=True):
                        pipe.hincrby(self._key, field, -_microseconds(seconds))
                    pipe.execute()
            except redis.RedisError as error:
                self._fall_back_to_local(error)
        else:
            with self._lock:
                self._times[1:] = [at - seconds for at, seconds in zip(self._times[1:], back, strict=True)]

    def _uses_redis(self) -> bool:
        return self._client is not None and time.monotonic() >= self._local_until

    def _fall_back_to_local(self, error: redis.RedisError) -> None:
        """Start with an empty budget: this process may just have used the shared one."""
        with self._lock:
            now = time.monotonic()
            bursts = (self._requests.burst_seconds, self._tokens.burst_seconds)
            if now - self._local_until > REDIS_RETRY_SECONDS:
                logger.warning("limits_not_shared", extra=log_fields(backend=self.name, error=str(error)))
                self._times[1:] = [now + burst for burst in bursts]
            self._local_until = now + REDIS_RETRY_SECONDS


def _microseconds(seconds: float) -> int:
    return math.ceil(seconds * 1e6)
