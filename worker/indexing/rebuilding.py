"""Rebuild an index under the settings of today: fill a second build from the stored texts, then switch to it.

Every step is short and can be repeated, so any worker goes on with a rebuild whose worker has died. Only contents that
the live build has no vector of, under the same model, are sent to the provider.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID, uuid4

from psycopg import errors as pg

from worker.documents import Chunk, Document
from worker.errors import BuildDropped, InvalidQuery
from worker.index import Index
from worker.indexing.staging import SLICE_CHARACTERS, split
from worker.packing import batches
from worker.recipes import Difference, Recipe, probe
from worker.store import builds, connection, filling, hnsw, publishing, rebuilds, statistics
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.filling import StoredText
from worker.store.rebuilds import Lag, Pair, RebuildRequest, RebuildState
from worker.store.writing import DOCUMENTS_PER_TRANSACTION, FILLING_PRIORITY

CLOSING_INPUTS = 200  # queued inputs with which the closing phase may begin
CLOSING_SECONDS = 30.0  # its longest duration: the live build withholds revisions until the new one has them
WITHHELD_AT_ONCE = 1_000
PAUSE_SECONDS = 0.1  # between two looks at a build that waits for vectors

State = Literal["filling", "live", "cancelled", "blocked"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """Where a rebuild is after a call of `advance`."""

    state: State
    after: int = 0  # the last document that was filled: the next call begins there
    lag: Lag | None = None  # of a blocked rebuild: what keeps it from the switch


def differences(index: Index, live: Build) -> list[Difference]:
    """Return what a rebuild would change. May ask the provider for the length of its vectors."""
    return Recipe.stored(live.recipe).differences(Recipe.of(index.settings, index.backend))


def begin(index: Index, request: RebuildRequest) -> RebuildState | None:
    """Create the build under the recipe of the settings, or find it; `None` if the index has this recipe already.

    Probes the provider first. Raises InvalidQuery for an index without documents, SettingsError if the settings cannot
    work, ProviderUnavailable: try again.
    """
    live = live_build(index)
    recipe = Recipe.of(index.settings, index.backend)
    if recipe.as_json() == dict(live.recipe):
        return None
    probe(index.backend)
    with connection.checkout(index.url) as conn:
        new = rebuilds.begin(conn, live, recipe.as_json(), request)
        if new is not None:
            builds.remember_backend(conn, new.build, index.settings.embedding_backend.without_keys())
        return new


def roll_back(index: Index, request: RebuildRequest) -> RebuildState | None:
    """Fill the build that was live before, to switch back to it. `None` if this request was made before."""
    live = live_build(index)
    with connection.checkout(index.url) as conn:
        return rebuilds.roll_back(conn, live, request)


def cancel(index: Index, task_id: str) -> int | None:
    """Give up the build that is being filled; its number. Raises ServiceUnreachable while others hold its tables."""
    live = live_build(index)
    with connection.checkout(index.url) as conn:
        return rebuilds.cancel(conn, live, task_id)


def drop_old(index: Index, task_id: str) -> list[int]:
    """Drop the builds that a rebuild has replaced; their numbers. Raises as `cancel` does."""
    live = live_build(index)
    with connection.checkout(index.url) as conn:
        return rebuilds.drop_old(conn, live, task_id)


def state_of(index: Index, build: int) -> str | None:
    """Return the state of a build; `None` if it was dropped."""
    with connection.checkout(index.url) as conn:
        every = rebuilds.states(conn, builds.index_key(conn, index.name))
    return next((each.state for each in every if each.build == build), None)


def live_build(index: Index) -> Build:
    with connection.checkout(index.url) as conn:
        live = builds.live(conn, index.name)
    if live is None:
        raise InvalidQuery(
            f"index {index.name!r} has no documents: it is created with its first one, under the settings of then"
        )
    return live


@dataclass(kw_only=True)
class Rebuilder:
    """Goes on with the rebuild of an index, for a limited time."""

    index: Index
    build: int
    token: UUID = field(default_factory=uuid4)

    def advance(self, *, seconds: float, after: int = 0) -> Step:
        """Fill, close and switch for about so many seconds, at least one step. Any number may run at once: one works.

        `after`: the last document that an earlier call has filled.
        """
        deadline = time.monotonic() + seconds
        step = Step(state="filling", after=after)
        try:
            while True:
                pair = self._pair()
                if pair is None:
                    return self._ended()
                with connection.checkout(self.index.url) as conn:
                    is_ours = rebuilds.hold(conn, pair.new, self.token)
                if is_ours:
                    step = self._close(pair) if pair.new.state == "closing" else self._fill(pair, step.after)
                else:
                    time.sleep(max(0.0, min(PAUSE_SECONDS, deadline - time.monotonic())))
                if step.state != "filling" or time.monotonic() >= deadline:
                    return step
        except BuildDropped:
            return self._ended()
        finally:
            self._release()

    def _pair(self) -> Pair | None:
        with connection.checkout(self.index.url) as conn:
            live = builds.live(conn, self.index.name)
            return None if live is None else rebuilds.pair(conn, live.index_id, self.build)

    def _ended(self) -> Step:
        """How a rebuild has ended that another call has completed, or that was cancelled."""
        try:
            state = state_of(self.index, self.build)
        except BuildDropped:
            state = None
        return Step(state="live" if state == "live" else "cancelled")

    def _release(self) -> None:
        pair = self._pair()
        if pair is not None:
            with connection.checkout(self.index.url) as conn:
                rebuilds.release(conn, pair.new, self.token)

    def _fill(self, pair: Pair, after: int) -> Step:
        """Fill the next documents; at the end of the index, see whether the new build can replace the live one."""
        with connection.checkout(self.index.url) as conn:
            found = filling.unfilled(conn, pair, after=after, limit=DOCUMENTS_PER_TRANSACTION)
            some = next(
                batches(
                    found,
                    lambda item: item.bytes,
                    weight_limit=SLICE_CHARACTERS,
                    size_limit=DOCUMENTS_PER_TRANSACTION,
                ),
                [],
            )
            texts = filling.texts(conn, [item.rev for item in some])
        if some:
            self._fill_texts(pair, texts)
            return Step(state="filling", after=some[-1].doc)
        if after:
            return Step(state="filling")  # look again from the first document on
        return self._begin_closing(pair)

    def _fill_texts(self, pair: Pair, texts: Sequence[StoredText]) -> None:
        backend = self.index.embedder(pair.new).backend
        wanted: list[tuple[StoredText, list[Chunk]]] = []
        for text in texts:
            document = Document(id=text.id, text=text.text, title=text.title, metadata=dict(text.metadata))
            wanted.append((text, split(document, pair.new, backend)))
        with connection.checkout(self.index.url) as conn:
            filled = filling.fill(conn, pair, wanted, priority=FILLING_PRIORITY)
            publishing.publish(conn, pair.new, filled.docs)

    def _begin_closing(self, pair: Pair) -> Step:
        """Begin the closing phase once little is missing, and the vector index is there."""
        with connection.checkout(self.index.url) as conn:
            pending = rebuilds.progress(conn, pair.new)["pending_chunks"]
            lag = rebuilds.lag(conn, pair)
            # a document that failed since the last look may have an older revision to fill
            if lag.failed and not pending and not filling.unfilled(conn, pair, after=0, limit=1):
                return Step(state="blocked", lag=lag)
            is_down = pending and rebuilds.state(conn, pair.new).error is not None
            is_early = pending > CLOSING_INPUTS or lag.unfilled or lag.failed
            if is_early or is_down or hnsw.is_awaited(conn, pair.new, self.index.settings.hnsw):
                time.sleep(PAUSE_SECONDS)
                return Step(state="filling")
            statistics.analyze(conn, pair.new)
        self._change_phase(pair, "closing")
        return Step(state="filling")

    def _close(self, pair: Pair) -> Step:
        """Publish what both builds have, then switch if nothing is missing; give up the phase if it takes too long."""
        with connection.checkout(self.index.url) as conn:
            self._publish_waiting(conn, pair)
            try:
                lag = rebuilds.switch(conn, pair)
            except pg.LockNotAvailable:
                return Step(state="filling")
            if lag is None:
                return Step(state="live")
            current = rebuilds.state(conn, pair.new)
        if lag.failed or current.seconds > CLOSING_SECONDS:
            self._change_phase(pair, "filling")
            with connection.checkout(self.index.url) as conn:
                self._publish_waiting(conn, pair)
        else:
            time.sleep(PAUSE_SECONDS)
        return Step(state="filling")

    def _publish_waiting(self, conn: Connection, pair: Pair) -> None:
        for build in (pair.new, pair.live):
            publishing.publish(conn, build, rebuilds.withheld(conn, build, limit=WITHHELD_AT_ONCE))

    def _change_phase(self, pair: Pair, state: str) -> None:
        with connection.checkout(self.index.url) as conn:
            try:
                rebuilds.change_phase(conn, pair, state)
            except pg.LockNotAvailable:
                time.sleep(PAUSE_SECONDS)  # the next step tries again
