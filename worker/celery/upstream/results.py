"""The Redis result backend of our app: Celery's, which also stores results on a broker over its memory limit.

Celery is told by `Celery(loader=...)`.
"""

from typing import Any, ClassVar

from celery.backends import redis as stock
from celery.loaders.app import AppLoader
from redis.exceptions import OutOfMemoryError

from worker.celery.upstream.scripts import run_past_limit


class RedisBackend(stock.RedisBackend):
    """Celery's result backend on Redis."""

    def _set(self, key: Any, value: Any, expires: float | None = None) -> None:
        try:
            super()._set(key, value, expires)
        except OutOfMemoryError:
            seconds = self.expires if expires is None else expires
            run_past_limit(self.client, "SET", key, value, *(["EX", int(seconds)] if seconds else []))
            self.client.publish(key, value)


class Loader(AppLoader):
    """Celery's default loader, with our result backend behind the addresses of Redis."""

    override_backends: ClassVar = dict.fromkeys(
        ("redis", "rediss"), "worker.celery.upstream.results:RedisBackend"
    )
