"""Retry policy: which errors a task waits out, and for how long."""

from typing import Any

import redis
from kombu.exceptions import OperationalError

from worker.errors import TemporaryError

# A command on an unreachable or full broker raises one of these: kombu wraps most of redis-py's errors, Celery none.
BROKER_ERRORS = (OperationalError, redis.RedisError)

# Options of `@app.task`. Accepted work is safe in Postgres or in the broker, so a task waits for its services
# without a limit: 1 s, 2 s, 4 s, ... up to a minute between two attempts.
WAIT_FOR_SERVICES: dict[str, Any] = {
    "autoretry_for": (TemporaryError, *BROKER_ERRORS),
    "max_retries": None,
    "retry_backoff": 1,
    "retry_backoff_max": 60,
}
