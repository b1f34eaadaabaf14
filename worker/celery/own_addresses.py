"""A Celery app that uses the addresses of its configuration only."""

from typing import Any

from celery import Celery


class OwnAddresses(Celery):
    """Celery lets `CELERY_BROKER_URL` and others of the environment win: they may belong to the application.

    Set `backend_cls` to the address of the results: it wins over `CELERY_RESULT_BACKEND`.
    """

    def connection_for_read(self, url: str | None = None, **kwargs: Any) -> Any:
        return super().connection_for_read(url or self.conf.get("broker_url"), **kwargs)

    def connection_for_write(self, url: str | None = None, **kwargs: Any) -> Any:
        return super().connection_for_write(url or self.conf.get("broker_url"), **kwargs)

    def connection(self, hostname: str | None = None, **kwargs: Any) -> Any:
        return super().connection(hostname or self.conf.get("broker_url"), **kwargs)
