"""The benchmark of growth, on a small index in real Postgres."""

import psycopg
import pytest

from benchmarks.growth import Growing


@pytest.mark.slow
def test_a_load_of_more_than_ten_minutes_is_healthy(url: str) -> None:
    """Nobody waits for the jobs of the benchmark, so it takes their results itself."""
    growing = Growing(url)
    try:
        growing.load(300)
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("UPDATE vector_index.jobs SET touched_at = touched_at - interval '11 minutes'")
        assert growing.verify_seconds() >= 0
    finally:
        growing.drainer.stop(5)
