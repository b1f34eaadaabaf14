"""Decide how a claim ends: which inputs are saved, split, failed or released, after which delay, and who pauses.

Pure: worker/indexing/draining/settlement.py sends the requests, and writes the outcome. The rules are 9 (attempts,
travelling alone) and 12 to 14 (release, fail, split) of docs/internals/protocol.md.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from worker.documents import Chunk
from worker.errors import InputError, ProviderUnavailable, SettingsError, VectorIndexError
from worker.indexing.draining import backoff

if TYPE_CHECKING:
    from worker.store.queue import Input

MAX_ATTEMPTS = 6  # claims of one input; from the third it travels alone


@dataclass(frozen=True, kw_only=True)
class Response:
    """How one request of a claim ended: with vectors, with an error, or unsent (without both)."""

    inputs: "Sequence[Input]"
    vectors: NDArray[np.float32] | None = None  # a row per input
    error: VectorIndexError | None = None
    pieces: Sequence[Chunk] = ()  # of a single input that is, or may be, too large: they replace it

    @property
    def is_unanswered(self) -> bool:
        """Whether the provider may be down, or may fail for these inputs alone."""
        return isinstance(self.error, ProviderUnavailable) and not self.error.rate_limited


@dataclass(frozen=True, kw_only=True)
class Split:
    """An input that is, or may be, too large for the provider."""

    input: "Input"
    pieces: Sequence[Chunk]  # at least two, which replace it
    error: VectorIndexError


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An input that is given up, with the documents that want it."""

    input: "Input"
    message: str  # what the documents' owner reads
    error: VectorIndexError | None  # None: worker processes died of it


@dataclass(frozen=True, kw_only=True)
class Pause:
    """How long requests to the provider stop."""

    seconds: float
    for_all_processes: bool = False  # the provider named the time; else this process alone pauses
    unusable: SettingsError | None = None  # until the provider answers a probe, nothing is claimed


@dataclass(frozen=True, kw_only=True)
class Release:
    """The inputs of a claim without another outcome go back into the queue."""

    seconds: float = 0.0  # until they can be claimed again
    counted: bool = False  # whether the claim was an attempt
    retried: int = 0  # inputs whose request failed for now, for the log and the metrics
    error: VectorIndexError | None = None  # why
    pause: Pause | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the inputs of a claim without a vector end."""

    note: str | None = None  # becomes the last error of the build, in status and doctor
    split: tuple[Split, ...] = ()
    failed: tuple[Failure, ...] = ()
    release: Release | None = None


# nothing was sent: the claim was no attempt, and its inputs can be claimed at once
NOT_SENT = Outcome(release=Release())


def exhausted(inputs: "Iterable[Input]") -> Outcome | None:
    """Fail the inputs that died with their worker process in each attempt; `None`: there are no such inputs."""
    message = (
        f"given up after {MAX_ATTEMPTS} attempts: the worker process died each time it embedded this text"
    )
    spent = [item for item in inputs if item.attempts > MAX_ATTEMPTS]
    failed = tuple(Failure(input=item, message=message, error=None) for item in spent)
    return Outcome(failed=failed) if failed else None


def set_aside(error: SettingsError) -> Outcome:
    """Release a claim of an index whose recipe and backend differ; other indexes of the backend go on."""
    return Outcome(note=str(error), release=Release(seconds=backoff.PAUSE_SECONDS))


def blame(responses: Sequence[Response], *, provider_is_up: bool, was_alone: bool) -> Sequence[Response]:
    """Turn unanswered requests into unsent ones, unless their inputs are to blame.

    The inputs are to blame if the provider answers a probe afterwards. Otherwise it is down, and the request is left
    uncounted, so documents survive an outage of any length. An input that `was_alone` (the only one of its claim, and
    the only request in flight) is to blame even then, as it may take the provider down. Inputs wait during an outage,
    so each outage counts as one attempt at most.
    """
    if provider_is_up or was_alone:
        return responses
    return [Response(inputs=sent.inputs) if sent.is_unanswered else sent for sent in responses]


def decide(responses: Sequence[Response], *, max_pause_seconds: float) -> Outcome:
    """How the inputs without a vector end, after `blame`.

    Inputs of several responses may need another attempt; one release puts all of them back. A pause that the provider
    names is cut to `max_pause_seconds`.
    """
    outcome = Outcome(
        split=tuple(
            Split(input=sent.inputs[0], pieces=sent.pieces, error=sent.error)
            for sent in responses
            if sent.pieces and sent.error
        ),
        failed=tuple(
            Failure(input=item, message=str(sent.error), error=sent.error)
            for sent in responses
            if isinstance(sent.error, InputError) and not sent.pieces
            for item in sent.inputs
        ),
    )
    errors = [*(each.error for each in outcome.split[:1]), *(each.error for each in outcome.failed)]
    for sent in responses:
        if sent.pieces:
            continue
        if sent.error is not None and not isinstance(sent.error, InputError):
            errors.append(sent.error)
            outcome = _retry(outcome, sent, sent.error, max_pause_seconds)
        elif sent.vectors is None and sent.error is None:
            outcome = replace(outcome, release=outcome.release or Release())
    return replace(outcome, note=str(errors[-1]) if errors else None)


def _retry(outcome: Outcome, sent: Response, error: VectorIndexError, max_pause_seconds: float) -> Outcome:
    """Release inputs for another attempt; fail an input alone whose attempts are used up."""
    pause = _pause(error, max_pause_seconds)
    if pause is not None:  # waiting for a rate limit or for settings is no attempt
        release = Release(seconds=pause.seconds, retried=len(sent.inputs), error=error, pause=pause)
        return replace(outcome, release=release)
    attempts = max(item.attempts for item in sent.inputs)
    seconds = backoff.backoff_seconds(attempts, backoff.BACKOFF_LIMIT_SECONDS)
    others = outcome.release.retried if outcome.release else 0
    release = Release(seconds=seconds, counted=True, retried=len(sent.inputs) + others, error=error)
    if attempts >= MAX_ATTEMPTS and len(sent.inputs) == 1:
        failure = Failure(input=sent.inputs[0], message=str(error), error=error)
        return replace(outcome, failed=(*outcome.failed, failure), release=release)
    return replace(outcome, release=release)


def _pause(error: VectorIndexError, max_pause_seconds: float) -> Pause | None:
    if isinstance(error, SettingsError):
        # a probe shows whether they are fixed, and costs less than a request
        return Pause(seconds=backoff.PAUSE_SECONDS, unusable=error)
    if isinstance(error, ProviderUnavailable) and error.rate_limited:
        # without a time, or with one that is over, it would refuse the next request at once
        if error.retry_after_seconds:
            seconds = min(error.retry_after_seconds, max_pause_seconds)
            return Pause(seconds=seconds, for_all_processes=True)
        return Pause(seconds=backoff.PAUSE_SECONDS)
    return None
