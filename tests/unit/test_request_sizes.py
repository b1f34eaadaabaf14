"""How many inputs a request takes."""

from types import SimpleNamespace

import pytest

from tests.fixtures.application import HashBackend
from worker import configuration
from worker.backends.budgets import Budget
from worker.indexing.draining import provider
from worker.indexing.draining.provider import MIN_SHARE, Provider


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    found = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(provider, "time", SimpleNamespace(monotonic=lambda: found.now))
    return found


@pytest.fixture
def asked() -> Provider:
    settings = configuration.load({}).index("default").embedding_backend
    return Provider(settings, HashBackend(), Budget("", settings.name))


def embed(asked: Provider, clock: SimpleNamespace, *, rate: int, seconds: float) -> None:
    for _ in range(int(seconds * 20)):
        clock.now += 0.05
        asked.answered([9] * (rate // 20))


def test_a_load_fills_larger_requests_the_faster_it_is(asked: Provider, clock: SimpleNamespace) -> None:
    embed(asked, clock, rate=1_000, seconds=5.0)
    slow = asked.share
    embed(asked, clock, rate=4_000, seconds=5.0)
    assert MIN_SHARE < 200 < slow < 300 < 800 < asked.share < 1_200


@pytest.mark.usefixtures("clock")
def test_a_single_job_is_shared_out_to_all_slots(asked: Provider) -> None:
    assert asked.share == MIN_SHARE
    asked.answered([9] * MIN_SHARE)
    assert asked.share == MIN_SHARE


def test_requests_are_small_again_once_a_load_is_over(asked: Provider, clock: SimpleNamespace) -> None:
    embed(asked, clock, rate=4_000, seconds=5.0)
    clock.now += 5.0
    assert asked.share == MIN_SHARE
