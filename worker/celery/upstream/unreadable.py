"""Unreadable messages: anything in a queue that kombu has not written. They are logged and dropped."""

import logging
from typing import Any, cast

from worker.observability.logs import log_fields

# raised by kombu on such a message
UNREADABLE = (AttributeError, LookupError, RecursionError, TypeError, ValueError)

logger = logging.getLogger("vector_index.broker")


def check(channel: Any, message: Any) -> dict[str, Any]:
    """Check that a message has all that kombu reads from it. Raises one of UNREADABLE."""
    envelope = {**message, "body": ""}  # a body that cannot be read fails its task
    delivery = channel.Message(envelope, channel=channel).delivery_info
    _ = delivery["exchange"], delivery["routing_key"]
    return cast("dict[str, Any]", message)


def log(raw: bytes, error: Exception, **fields: str) -> None:
    """Log the size of the message and the kind of the error; the message itself may contain a text."""
    found = log_fields(bytes=len(raw), error=type(error).__name__, fix="see who sends it", **fields)
    logger.error("message_unreadable", extra=found)
