"""How a claim ends is decided without a provider, a clock or a database: docs/internals/protocol.md, rules 9 to 14."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from worker.documents import Chunk
from worker.errors import ProviderUnavailable, Refused, SettingsError, TooLarge, VectorIndexError
from worker.indexing.draining import backoff, outcomes
from worker.indexing.draining.outcomes import MAX_ATTEMPTS, Failure, Outcome, Pause, Release, Response, Split
from worker.store.queue import Input

DOWN = ProviderUnavailable("it is down")
LIMITED = ProviderUnavailable("slow down", rate_limited=True)
REFUSED = Refused("not this one")
TOO_LARGE = TooLarge("too large")
WRONG_KEY = SettingsError("a wrong key")


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 1.0)


def inputs(number: int = 1, *, attempts: int = 1, first: int = 0) -> list[Input]:
    return [
        Input(hash=bytes([n]), heading="", text=f"Words {n}.", tokens=3, attempts=attempts)
        for n in range(first, first + number)
    ]


def pieces(number: int) -> list[Chunk]:
    return [
        Chunk(start=n, end=n + 1, text=str(n), tokens=1, heading="", hash=bytes([n])) for n in range(number)
    ]


def answered(sent: Sequence[Input]) -> Response:
    return Response(inputs=sent, vectors=np.zeros((len(sent), 2), dtype=np.float32))


def decide(*responses: Response) -> Outcome:
    return outcomes.decide(responses, max_pause_seconds=600.0)


def failed(sent: Sequence[Input], error: VectorIndexError | None) -> Response:
    return Response(inputs=sent, error=error)


def test_a_claim_with_all_vectors_leaves_nothing_to_write() -> None:
    assert decide(answered(inputs(3))) == Outcome()


def test_inputs_that_were_not_sent_can_be_claimed_at_once_and_lose_no_attempt() -> None:
    assert decide(answered(inputs(2)), Response(inputs=inputs(1, first=2))) == outcomes.NOT_SENT
    assert outcomes.NOT_SENT.release == Release(seconds=0.0, counted=False)


@pytest.mark.parametrize("error", [REFUSED, TOO_LARGE])
def test_a_refused_input_fails_with_the_providers_sentence(error: VectorIndexError) -> None:
    [guilty] = inputs()
    assert decide(answered(inputs(2, first=1)), failed([guilty], error)) == Outcome(
        note=str(error), failed=(Failure(input=guilty, message=str(error), error=error),)
    )


def test_an_input_that_is_too_large_is_split_and_does_not_fail() -> None:
    [large] = inputs()
    cut = pieces(2)
    assert decide(Response(inputs=[large], error=TOO_LARGE, pieces=cut)) == Outcome(
        note="too large", split=(Split(input=large, pieces=cut, error=TOO_LARGE),)
    )


@pytest.mark.parametrize(("attempts", "seconds"), [(1, 2.0), (2, 4.0), (5, 32.0)])
def test_a_failed_request_is_an_attempt_and_backs_off(attempts: int, seconds: float) -> None:
    outcome = decide(failed(inputs(3, attempts=attempts), DOWN))
    assert outcome.failed == ()
    assert outcome.release == Release(seconds=seconds, counted=True, retried=3, error=DOWN)
    assert outcome.note == "it is down"


def test_the_backoff_follows_the_most_attempts_of_a_request_and_has_a_limit() -> None:
    outcome = decide(failed([*inputs(1, attempts=1), *inputs(1, attempts=3, first=1)], DOWN))
    assert outcome.release is not None
    assert outcome.release.seconds == 8.0
    assert backoff.backoff_seconds(10**6, backoff.BACKOFF_LIMIT_SECONDS) == backoff.BACKOFF_LIMIT_SECONDS


def test_the_last_attempt_fails_an_input_that_is_alone() -> None:
    [item] = inputs(attempts=MAX_ATTEMPTS)
    assert decide(failed([item], DOWN)).failed == (Failure(input=item, message="it is down", error=DOWN),)


def test_the_last_attempt_fails_no_input_among_others() -> None:
    """Any of them may be guilty: they travel alone from the third attempt."""
    outcome = decide(failed(inputs(2, attempts=MAX_ATTEMPTS), DOWN))
    assert outcome.failed == ()
    assert outcome.release is not None


@pytest.mark.parametrize(("named", "seconds"), [(7.0, 7.0), (3_600.0, 600.0)])
def test_a_rate_limit_pauses_all_processes_and_is_no_attempt(named: float, seconds: float) -> None:
    error = ProviderUnavailable("slow down", rate_limited=True, retry_after_seconds=named)
    assert decide(failed(inputs(2, attempts=MAX_ATTEMPTS), error)).release == Release(
        seconds=seconds, retried=2, error=error, pause=Pause(seconds=seconds, for_all_processes=True)
    )


@pytest.mark.parametrize("named", [None, 0.0])
def test_a_rate_limit_without_a_time_pauses_this_process(named: float | None) -> None:
    error = ProviderUnavailable("slow down", rate_limited=True, retry_after_seconds=named)
    given = decide(failed(inputs(), error)).release
    assert given == Release(seconds=15.0, retried=1, error=error, pause=Pause(seconds=15.0))


def test_wrong_settings_make_the_provider_unusable_and_are_no_attempt() -> None:
    given = decide(failed(inputs(4, attempts=MAX_ATTEMPTS), WRONG_KEY)).release
    pause = Pause(seconds=15.0, unusable=WRONG_KEY)
    assert given == Release(seconds=15.0, counted=False, retried=4, error=WRONG_KEY, pause=pause)


def test_each_kind_of_outcome_has_its_inputs_and_the_note_is_that_of_the_retry() -> None:
    saved, split, refused, rest = inputs(2), inputs(1, first=2), inputs(1, first=3), inputs(2, first=4)
    outcome = decide(
        answered(saved),
        Response(inputs=split, error=TOO_LARGE, pieces=pieces(2)),
        failed(refused, REFUSED),
        failed(rest, DOWN),
    )
    assert [each.input for each in outcome.split] == split
    assert [each.input for each in outcome.failed] == refused
    assert outcome.release == Release(seconds=2.0, counted=True, retried=2, error=DOWN)
    assert outcome.note == "it is down"


def test_a_provider_that_is_down_is_to_blame_for_its_silence_alone() -> None:
    """Refusals and rate limits are answers: they stay as they are."""
    unanswered = failed(inputs(2), DOWN)
    others = [answered(inputs(1, first=2)), failed(inputs(1, first=3), REFUSED), failed(inputs(), LIMITED)]
    blamed = outcomes.blame([unanswered, *others], provider_is_up=False, was_alone=False)
    assert blamed == [Response(inputs=unanswered.inputs), *others]
    assert decide(blamed[0]).release == Release(seconds=0.0, counted=False)


@pytest.mark.parametrize("proof", [{"provider_is_up": True}, {"was_alone": True}])
def test_inputs_are_to_blame_if_the_provider_takes_a_word_or_they_were_alone(proof: dict[str, bool]) -> None:
    responses = [failed(inputs(), DOWN)]
    known: dict[str, Any] = {"provider_is_up": False, "was_alone": False} | proof
    assert outcomes.blame(responses, **known) == responses


def test_an_input_whose_attempts_never_ended_fails_unsent() -> None:
    fresh, spent = inputs(1, attempts=MAX_ATTEMPTS), inputs(1, attempts=MAX_ATTEMPTS + 1)
    assert outcomes.exhausted(fresh) is None
    outcome = outcomes.exhausted(spent)
    assert outcome is not None
    [failure] = outcome.failed
    assert (failure.input, failure.error, outcome.release) == (spent[0], None, None)
    assert failure.message.startswith("given up after 6 attempts: the worker process died each time")


def test_an_index_that_the_backend_does_not_fit_is_set_aside_alone() -> None:
    outcome = outcomes.set_aside(WRONG_KEY)
    assert outcome == Outcome(note="a wrong key", release=Release(seconds=15.0, counted=False))
