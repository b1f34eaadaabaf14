"""The Redis result backend of our app: Celery's, which also stores results on a broker over its memory limit.

Celery is told by `Celery(loader=...)`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from celery.app.task import Context
from celery.backends import redis as stock
from celery.loaders.app import AppLoader
from celery.states import SUCCESS
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

    def store_successes(self, results: Mapping[str, Any]) -> None:
        """Store the results of tasks that have succeeded, by task id, in one transmission.

        Celery stores them one by one, and looks before each whether it is stored already: storing it again is the same.
        """
        try:
            with self.client.pipeline(transaction=False) as commands:
                for id, result in results.items():
                    request = Context(id=id)
                    meta = self._get_result_meta(
                        result=result, state=SUCCESS, traceback=None, request=request
                    )
                    key, value = self.get_key_for_task(id), self.encode({**meta, "task_id": id})
                    commands.set(key, value, ex=self.expires)
                    commands.publish(key, value)
                commands.execute()
        except OutOfMemoryError:
            for id, result in results.items():
                self.store_result(id, result, SUCCESS)


class Loader(AppLoader):
    """Celery's default loader, with our result backend behind the addresses of Redis."""

    override_backends: ClassVar = dict.fromkeys(
        ("redis", "rediss"), "worker.celery.upstream.results:RedisBackend"
    )
