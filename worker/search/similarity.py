"""Turn the distance of a hit into a similarity and a score, and compare it with a threshold."""

from dataclasses import replace

from worker.errors import InvalidQuery
from worker.store.builds import Build
from worker.store.search import Found, Hit


def similarity(hit: Hit, build: Build) -> float | None:
    """1 - cosine distance; `None` for another distance, and for a hit that was found by words alone."""
    return 1.0 - hit.distance if hit.distance is not None and build.recipe["distance"] == "cosine" else None


def vector_score(hit: Hit, build: Build) -> float:
    """The score of a hit that was found by its vector: its similarity, else the negative distance."""
    assert hit.distance is not None
    similar = similarity(hit, build)
    return -hit.distance if similar is None else similar


def scaled(found: Found, scale: float, build: Build) -> Found:
    """Multiply the similarities of hits: those to the mean vector of several questions become their mean."""
    if scale == 1.0:
        return found
    is_cosine = build.recipe["distance"] == "cosine"
    hits = [
        hit._replace(
            distance=1 - scale * (1 - hit.distance)
            if is_cosine and hit.distance is not None
            else hit.distance,
            cosine=None if hit.cosine is None else scale * hit.cosine,
        )
        for hit in found.hits
    ]
    return replace(found, hits=hits)


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
