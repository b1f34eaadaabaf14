"""The Redis transport of our app: kombu's, with the methods of its channel that the registry lists replaced.

Celery is told by `Celery(amqp=...)`. Other connections of the process use kombu's own transport.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

from celery.app import amqp
from kombu import connection
from kombu.transport import redis as stock
from redis.exceptions import ConnectionError, OutOfMemoryError

from worker.celery.upstream import callbacks, consuming, payloads
from worker.celery.upstream.broker_clock import BrokerClock
from worker.celery.upstream.memory_limit import (
    NonTransactional,
    PrefixedNonTransactional,
    bind_past_limit,
    put_past_limit,
)
from worker.celery.upstream.redelivery import UnackedMessages
from worker.celery.upstream.scripts import PAST_LIMIT


class Channel(stock.Channel):
    """A channel that keeps every message, and serves a broker over its memory limit."""

    Message = payloads.Message
    QoS = UnackedMessages
    codecs: Any = MappingProxyType({"base64": payloads.Base64()})

    # state of the request for the next message: see consuming.py
    claim: str | None = None
    asked: Sequence[list[Any]] = ()
    found_none = True
    is_full = False
    _kept: Any = None  # the client of the pool for commands

    _brpop_start = consuming.start_claim
    _brpop_read = consuming.read_claim

    def _connparams(self, asynchronous: bool = False) -> Any:
        # An AttributeError on the next line of kombu would end the worker. This error is expected and handled.
        if getattr(self.connection, "client", None) is None:
            raise ConnectionError("the connection to the broker was lost")
        return super()._connparams(asynchronous=asynchronous)  # type: ignore[no-untyped-call]

    def _get_client(self) -> Any:
        """Return what makes a client of a pool: for each command of this channel, but for those that block.

        kombu would make a new one for each, which is a seventh of the CPU time of a worker with small messages.
        """
        make: Callable[..., Any] = NonTransactional
        if self.global_keyprefix:
            make = partial(PrefixedNonTransactional, global_keyprefix=self.global_keyprefix)

        def client(connection_pool: Any, **options: Any) -> Any:
            if connection_pool is not self._pool:  # a client that blocks keeps its connection
                return make(connection_pool=connection_pool, **options)
            if self._kept is None or self._kept.connection_pool is not connection_pool:
                self._kept = make(connection_pool=connection_pool, **options)
            return self._kept

        return client

    @cached_property
    def broker_clock(self) -> BrokerClock:
        return BrokerClock(self)

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        message = self.broker_clock.sent(message)
        try:
            super()._put(queue, message, **kwargs)  # type: ignore[no-untyped-call]
        except OutOfMemoryError:
            if not put_past_limit(self, queue, message):
                raise

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)  # type: ignore[no-untyped-call]
        except OutOfMemoryError:
            bind_past_limit(self, exchange, routing_key, pattern, queue)

    @cached_property
    def _refresh_binding(self) -> Any:
        # its first key is a binding table, which never has a TTL
        return self._create_client().register_script(PAST_LIMIT + stock.REFRESH_BINDING)  # type: ignore[no-untyped-call]


class Transport(stock.Transport):
    """kombu's Redis transport with our channel."""

    Channel = Channel


class OwnTransport(connection.Connection):
    """Replaces kombu's Redis transport by ours, for every form of address."""

    def get_transport_cls(self) -> Any:
        found = super().get_transport_cls()  # type: ignore[no-untyped-call]
        return Transport if found is stock.Transport else found


class PooledConnection(OwnTransport, connection.PooledConnection):
    """A connection of a pool: everything that a worker sends goes through one."""


class ConnectionPool(connection.ConnectionPool):
    """A pool of our connections. kombu's makes connections of its own class, whichever class asked for the pool."""

    def new(self) -> PooledConnection:
        info = dict(self.connection._info(resolve=False))
        return PooledConnection(self, **info)  # type: ignore[no-untyped-call]


class Connection(OwnTransport):
    """A connection of our app, by itself or as the model of a pool."""

    def Pool(self, limit: int | None = None, **kwargs: Any) -> ConnectionPool:
        return ConnectionPool(self, limit, **kwargs)  # type: ignore[no-untyped-call]


class AMQP(amqp.AMQP):
    """What Celery makes connections and routes with."""

    Connection = Connection

    def Router(self, queues: Any = None, create_missing: bool | None = None) -> callbacks.Router:
        return callbacks.Router(self.routes, queues or self.queues, app=self.app)

    def _retry_publish(self, publish: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return super()._retry_publish(partial(callbacks.publish, publish), *args, **kwargs)
