"""Drift: differences between the recipe of an index and the settings, which a rebuild would apply."""

from collections.abc import Sequence

from worker.index import Index
from worker.recipes import Difference, Recipe, stated_dimensions
from worker.store import builds, connection
from worker.store.builds import Build


def find(index: Index, live: Build) -> list[Difference]:
    """Return what a rebuild of the index would change, without a request to its provider.

    A length of vectors that only the provider knows counts as unchanged.
    """
    recipe = Recipe.stored(live.recipe)
    dimensions = stated_dimensions(index.settings, index.backend) or recipe.dimensions
    return recipe.differences(Recipe.of(index.settings, index.backend, dimensions=dimensions))


def note(index: Index) -> str | None:
    """Keep the differences for `status` and `ready`; return the sentence about them, `None` without any.

    While the settings fit the live build, they are kept with it: it needs them once the settings name another model.
    """
    with connection.checkout(index.url) as conn:
        live = builds.live(conn, index.name)
    if live is None:
        return None
    found = [str(difference) for difference in find(index, live)]
    is_made = Recipe.stored(live.recipe).is_made_by(index.backend)
    with connection.checkout(index.url) as conn:
        if is_made:
            builds.remember_backend(conn, live.build, index.settings.embedding_backend.without_keys())
        builds.note_drift(conn, live.build, found)
    return sentence(index.name, found) if found else None


def sentence(index: str, differences: Sequence[str]) -> str:
    """Say what differs, what goes on, and which command applies the settings."""
    return (
        f"index {index!r} differs from the settings: {'; '.join(differences)}; searches go on with the index as it "
        f"is, and `vector-index rebuild --index {index}` applies the settings"
    )
