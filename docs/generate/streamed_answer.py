"""The page `streamed-answer.md`: the key, the events and the life of a stream, from the code that writes it."""

from pathlib import Path
from typing import get_args

from worker.chat.stream import EVENTS, MAX_STREAM_ENTRIES, STREAM_SECONDS, Event
from worker.keyspace import STREAM

from .text import block, page, table

EXAMPLE = Path(__file__).parents[2] / "examples" / "streamed_answer.py"

INTRODUCTION = """\
# The streamed answer

With `stream=True`, `tasks.chat` writes its answer to a [Redis
stream](https://redis.io/docs/latest/develop/data-types/streams/) while the model speaks. The task also returns the
whole result. [How to use it](../how-to/chat.md#stream-the-answer).

| | |
| --- | --- |
| server | the workers' `RESULT_BACKEND`; `BROKER_URL` where that is empty |
| key | `{key}` and the id of the task |
| fields of an entry | `event`: one of the names below; `data`: JSON |
| kept | {seconds} seconds after the last entry; read it from the beginning as often as you like |
| length | the last {entries:,} entries, about |
"""
REST = """\
Every stream ends with `done` or `error`, unless all workers are down: set a deadline in your reader. If a worker dies
while it answers, another one deletes the stream and starts anew.

If Redis refuses an entry, the task fails with `ServiceUnreachable`. If you revoke the task, the worker stops between
two tokens, and the last entry is an `error`. The sentence of an `error` is that of the [error of the
task](tasks.md#errors); for a bug of ours it is the class of the error alone.
"""


def text() -> str:
    """Return the page. Raises ValueError for an event without a description."""
    if missing := set(get_args(Event)) - EVENTS.keys():
        raise ValueError(f"EVENTS of worker/chat/stream.py does not describe {', '.join(sorted(missing))}")
    rows = [[f"`{event}`", meaning.type, meaning.text] for event, meaning in EVENTS.items()]
    return page(
        INTRODUCTION.format(key=STREAM, seconds=STREAM_SECONDS, entries=MAX_STREAM_ENTRIES),
        "## Events",
        table(["event", "data", "when"], rows),
        REST,
        "## A reader",
        "`protocol=2` gives the replies one shape in every version of redis-py.",
        block(EXAMPLE.read_text(encoding="utf-8"), "python"),
    )
