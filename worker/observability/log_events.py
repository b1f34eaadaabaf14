"""The log events that operators may rely on: name, level, fields and meaning.

docs/generate/log_events.py compares them with the code that logs, and tests/acceptance/test_logs.py with real lines.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LogEvent:
    """Describes an event."""

    meaning: str  # in Markdown
    level: str  # or several, joined by "or"
    fields: tuple[str, ...] = ()  # in the order of the line; a field without a value is left out


# field: what it holds, in Markdown
FIELDS: Mapping[str, str] = {
    "accepted": "documents among them that are new, changed or unchanged; the others are stale",
    "at_most_seconds": "the grace period",
    "attempt": "number of the attempt that failed, from 1",
    "backend": "`embedding:` or `chat:`, and the name of the backend in the settings",
    "bug": "the fault in the worker",
    "bytes": "size of the message",
    "characters": "numbers of characters, by kind",
    "deleted": "documents that the source no longer has",
    "documents": "number of documents",
    "error": "the sentence of the [error](errors.md), or its class",
    "fix": "what to do",
    "ids": "ids of the first 20 documents",
    "index": "name of the index",
    "inputs": "number of inputs of requests; an input is a chunk, or a question",
    "message": "a sentence",
    "messages": "messages that the worker holds",
    "mode": "`hybrid`, `vector`, `text` or `similar`",
    "model": "name of the model",
    "outcome": "as the [label of the metrics](metrics.md#labels)",
    "purpose": "`documents`, `search`, `answer`, `rewrite` or `probe`",
    "queue": "name of the queue",
    "queues": "names of the queues",
    "read": "documents that the source returned",
    "fallback": "`chat:` and the name of the backend that is asked instead",
    "file": "a file, or a line of it",
    "field": "the metadata field that LANGUAGE_FIELD names",
    "files": "number of files",
    "names": "the first files, at most 20",
    "reason": "an `outcome`, `died`, or a sentence",
    "rejected": "documents that cannot be indexed",
    "seconds": "duration, or time until the next attempt",
    "staged": "new or changed documents",
    "task": "name of the task",
    "task_id": "id of the task",
    "tokens": "tokens sent",
    "unchanged": "documents that were indexed as they are",
    "warning": "why nothing was deleted",
    "worker": "node name of the worker",
}

_TASK = ("task", "task_id")

# event: its description, in the order of the flow
EVENTS: Mapping[str, LogEvent] = {
    "ready": LogEvent(level="info", fields=("worker", "queues"), meaning="A worker takes messages."),
    "start_failed": LogEvent(
        level="debug", meaning="A process cannot start, with the traceback of its error on stderr."
    ),
    "stopping": LogEvent(
        level="info", fields=("at_most_seconds",), meaning="A worker finishes its work, and ends."
    ),
    "task_received": LogEvent(level="info", fields=_TASK, meaning="A worker has a task."),
    "task_succeeded": LogEvent(
        level="info", fields=(*_TASK, "seconds"), meaning="A task ended with a result."
    ),
    "task_failed": LogEvent(
        level="info or error or critical",
        fields=(*_TASK, "error"),
        meaning="A task ended with an error. `error` is the level of a bug, with its traceback.",
    ),
    "task_retried": LogEvent(
        level="info", fields=(*_TASK, "error"), meaning="A task waits for a service, and tries again."
    ),
    "task_ignored": LogEvent(
        level="info",
        fields=(*_TASK, "error"),
        meaning="A task became another one, which continues under its id.",
    ),
    "task_rejected": LogEvent(
        level="warning", fields=(*_TASK, "error"), meaning="A message went back to its queue."
    ),
    "documents_staged": LogEvent(
        level="info",
        fields=("index", "task_id", "documents", "ids", "accepted"),
        meaning="Documents are stored, and wait for their vectors.",
    ),
    "documents_refused": LogEvent(
        level="warning",
        fields=("index", "task_id", "documents", "ids", "error"),
        meaning="Documents could not be taken; the error is that of the first.",
    ),
    "files_passed_over": LogEvent(
        level="warning",
        fields=("files", "names"),
        meaning="Files of a source folder are no documents; the first 20 are named.",
    ),
    "bytes_replaced": LogEvent(
        level="warning",
        fields=("file", "reason"),
        meaning="A file of a source folder has places that its encoding does not have; they became U+FFFD.",
    ),
    "file_without_text": LogEvent(
        level="warning",
        fields=("file", "reason"),
        meaning="A file of a source folder has no text that a reader sees.",
    ),
    "text_left_out": LogEvent(
        level="info",
        fields=("characters",),
        meaning="A reading of source folders left out what no reader sees; `characters` counts it by kind.",
    ),
    "encoding_guessed": LogEvent(
        level="warning",
        fields=("file", "reason"),
        meaning="A file of a source folder is not UTF-8, and does not state its encoding; a detector found one.",
    ),
    "request": LogEvent(
        level="info",
        fields=("backend", "purpose", "inputs", "tokens", "outcome", "seconds"),
        meaning="A request to a provider ended.",
    ),
    "documents_published": LogEvent(
        level="info", fields=("index", "documents", "ids"), meaning="New revisions became searchable."
    ),
    "documents_failed": LogEvent(
        level="warning",
        fields=("index", "documents", "ids", "reason", "error"),
        meaning="Documents were given up.",
    ),
    "request_failed": LogEvent(
        level="warning",
        fields=("index", "inputs", "reason", "error"),
        meaning="A request failed; its inputs return to the queue, or fail at their last attempt.",
    ),
    "rerank_failed": LogEvent(
        level="warning",
        fields=("index", "backend", "reason", "error"),
        meaning="The reranker failed; the rows of the search keep their order, and say so.",
    ),
    "inputs_split": LogEvent(
        level="warning",
        fields=("inputs", "error"),
        meaning="Chunks were too large for the provider, and were cut into smaller ones.",
    ),
    "batch_size_found": LogEvent(
        level="warning",
        fields=("backend", "inputs", "fix"),
        meaning="The provider refuses requests of BATCH_SIZE inputs; this process sends fewer from now on.",
    ),
    "unknown_language": LogEvent(
        level="warning",
        fields=("index", "field"),
        meaning="Documents of the index name an unknown language, so they have its LANGUAGE; once per process. "
        "`vector-index doctor` shows the names.",
    ),
    "provider_pause": LogEvent(
        level="warning",
        fields=("backend", "seconds"),
        meaning="The provider asked all workers of the backend to wait.",
    ),
    "backend_unusable": LogEvent(
        level="warning",
        fields=("backend", "error"),
        meaning="A probe failed: the backend waits, and is tried again.",
    ),
    "index_set_aside": LogEvent(
        level="warning",
        fields=("index", "error"),
        meaning="The settings do not fit the index: its documents wait, other indexes go on.",
    ),
    "leases_expired": LogEvent(
        level="warning",
        fields=("index", "inputs"),
        meaning="Chunks were claimed again, because their worker died or took too long.",
    ),
    "repaired": LogEvent(
        level="error",
        fields=("index", "inputs", "bug"),
        meaning="The sweep queued lost chunks: please report it.",
    ),
    "spelled": LogEvent(
        level="info",
        fields=("index", "inputs"),
        meaning="The sweep gave existing chunks the words of this release; repeated until all have them.",
    ),
    "search": LogEvent(
        level="info", fields=("index", "mode", "outcome", "seconds"), meaning="A search ended."
    ),
    "chat": LogEvent(
        level="info", fields=("index", "outcome", "seconds"), meaning="A question was answered."
    ),
    "rewrite_failed": LogEvent(
        level="warning",
        fields=("model", "error"),
        meaning="The chat model did not rewrite a question that follows others. It was searched with its history.",
    ),
    "fallback": LogEvent(
        level="warning",
        fields=("backend", "fallback", "error"),
        meaning="A question went to the `FALLBACK` of a chat backend, whose provider is away or over its limit.",
    ),
    "answer_cut_off": LogEvent(
        level="warning", fields=("model", "fix"), meaning="An answer reached the limit of its tokens."
    ),
    "reindexed": LogEvent(
        level="info or warning",
        fields=("index", "task_id", "read", "staged", "unchanged", "deleted", "rejected", "warning"),
        meaning="A run has read its source to the end. A warning says why it deleted nothing.",
    ),
    "reindex_skipped": LogEvent(
        level="info", fields=("index", "task_id", "reason"), meaning="A run did nothing."
    ),
    "reindex_failed": LogEvent(
        level="warning",
        fields=("index", "task_id", "error"),
        meaning="A run ended before its source; it deleted nothing.",
    ),
    "tried_again": LogEvent(
        level="warning",
        fields=("attempt", "seconds", "error"),
        meaning="A connection, a conflict in the database, or an answer is tried again.",
    ),
    "postgres_unreachable": LogEvent(
        level="warning", fields=("error",), meaning="Postgres does not answer; the worker tries again."
    ),
    "broker_full": LogEvent(
        level="error",
        fields=("error", "fix"),
        meaning="The broker is over its maxmemory; the worker goes on and drains its queues.",
    ),
    "broker_has_room": LogEvent(level="info", meaning="The broker takes messages again."),
    "leases_not_renewed": LogEvent(
        level="warning",
        fields=("messages", "error"),
        meaning="The broker did not answer a heartbeat; another worker may get these messages, too.",
    ),
    "limits_not_shared": LogEvent(
        level="warning",
        fields=("backend", "error"),
        meaning="The broker does not answer: this process keeps the rate limits alone.",
    ),
    "heartbeat_not_written": LogEvent(
        level="warning",
        fields=("error", "fix"),
        meaning="The file that `vector-index live` reads cannot be written.",
    ),
    "message_refused": LogEvent(
        level="error",
        fields=("error", "task"),
        meaning="An unknown task, or a message that cannot be read, such as a pickle. The result of the task says so.",
    ),
    "message_unreadable": LogEvent(
        level="error",
        fields=("bytes", "error", "fix", "queue"),
        meaning="Something in a queue that Celery did not make was dropped.",
    ),
    "message": LogEvent(
        level="any", fields=("message",), meaning="A sentence for the operator, or a line of a library."
    ),
}
