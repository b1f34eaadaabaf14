"""Turn the distance of a hit into a similarity and a score, and compare it with a threshold."""

from worker.errors import InvalidQuery
from worker.store.builds import Build
from worker.store.search import Hit


def similarity(hit: Hit, build: Build) -> float | None:
    """1 - cosine distance; `None` for another distance, and for a hit that was found by words alone."""
    return 1.0 - hit.distance if hit.distance is not None and build.recipe["distance"] == "cosine" else None


def vector_score(hit: Hit, build: Build) -> float:
    """The score of a hit that was found by its vector: its similarity, else the negative distance."""
    assert hit.distance is not None
    similar = similarity(hit, build)
    return -hit.distance if similar is None else similar


def passes_threshold(hit: Hit, build: Build, threshold: float) -> bool:
    """Tell whether a hit is at least as similar as the threshold; a threshold of 0 is off."""
    return not threshold or (similarity(hit, build) or 0) >= threshold


def check_threshold(threshold: float, build: Build) -> None:
    """Raise InvalidQuery for a threshold above 0 on a build without the cosine distance."""
    distance = build.recipe["distance"]
    if threshold > 0 and distance != "cosine":
        raise InvalidQuery(
            f'similarity_threshold needs DISTANCE "cosine"; index {build.index!r} has {distance!r}'
        )
