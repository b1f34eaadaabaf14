"""Lua scripts on the broker, with kombu's global key prefix and past the broker's memory limit."""

from collections.abc import Sequence
from typing import Any

# A broker at `maxmemory` refuses commands that may take memory, but not in a script that has written before.
# PERSIST writes, takes no memory, and changes nothing: none of these keys expires, or its expiry is set anew.
PAST_LIMIT = "redis.call('PERSIST', KEYS[1])\n"
COMMAND_PAST_LIMIT = PAST_LIMIT + "return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))"


def run(client: Any, script: str, keys: Sequence[str | bytes], *args: Any) -> Any:
    """Run a script. kombu's prefixing client leaves the keys of EVAL without their prefix."""
    if prefix := getattr(client, "global_keyprefix", ""):
        keys = [f"{prefix}{key!s}" for key in keys]
    return client.eval(script, len(keys), *keys, *args)


def run_past_limit(client: Any, command: str, key: str | bytes, *args: Any) -> Any:
    """Run a command on one key, even if the broker is over its memory limit."""
    return run(client, COMMAND_PAST_LIMIT, [key], command, *args)
