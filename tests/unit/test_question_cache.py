"""The vectors of questions are remembered for a short time, in bounded memory."""

import numpy as np

from worker.search.question_cache import SECONDS, QuestionCache, QuestionKey


def key(text: str, *, backend: int = 1, model: str = "m", dimensions: int = 4) -> QuestionKey:
    return QuestionKey(backend, model, dimensions, text.encode())


def vector(value: float) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return np.full(4, value, dtype=np.float32)


def test_a_question_is_remembered_until_its_time_is_over() -> None:
    now = [100.0]
    cache = QuestionCache(clock=lambda: now[0])
    cache.put(key("a"), vector(1), "backend")
    now[0] += SECONDS - 1
    found = cache.get(key("a"))
    assert found is not None
    assert found.tolist() == [1, 1, 1, 1]
    now[0] += 1
    assert cache.get(key("a")) is None


def test_another_model_length_or_backend_has_its_own_vectors() -> None:
    cache = QuestionCache()
    cache.put(key("a"), vector(1), "backend")
    others = [key("b"), key("a", backend=2), key("a", model="n"), key("a", dimensions=8)]
    assert [cache.get(other) for other in others] == [None] * 4


def test_memory_is_bounded_and_the_least_recently_used_go_first() -> None:
    cache = QuestionCache(most_bytes=3 * 16)
    for text in "abc":
        cache.put(key(text), vector(1), "backend")
    cache.get(key("a"))
    cache.put(key("d"), vector(1), "backend")
    cache.put(key("d"), vector(2), "backend")  # again: counted once
    assert [text for text in "abcd" if cache.get(key(text)) is not None] == ["a", "c", "d"]


def test_a_backend_lives_as_long_as_its_vectors() -> None:
    """So that its `id` is that of no other one."""

    class Backend:
        ended = False

        def __del__(self) -> None:
            Backend.ended = True

    cache, backend = QuestionCache(), Backend()
    cache.put(key("a", backend=id(backend)), vector(1), backend)
    del backend
    assert not Backend.ended
    cache.clear()
    assert Backend.ended
