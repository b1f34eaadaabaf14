"""Drainers for builds of another model than the settings name: the live build while an index is being rebuilt."""

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from worker.errors import SettingsError, TemporaryError
from worker.index import Embedder
from worker.indexing.background import BackgroundThread
from worker.indexing.draining.drainer import Drainer
from worker.observability.logs import log_fields
from worker.protocols import EmbeddingBackend
from worker.recipes import Recipe
from worker.store import builds, connection, queue
from worker.store.builds import Build

LOOK_SECONDS = 2.0  # between two looks at the list of builds

logger = logging.getLogger("vector_index.drain")


class OtherBuilds:
    """Starts a drainer for each build that the backend of its index does not serve, and stops it after the switch."""

    def __init__(
        self,
        url: str,  # of Postgres
        served: Mapping[str, EmbeddingBackend],  # by index: the backend that the settings name
        embedder_of: Callable[[Build], Embedder],
    ) -> None:
        self._url, self._served, self._embedder_of = url, served, embedder_of
        self._stopping = threading.Event()
        self._reported: set[int] = set()  # builds whose backend cannot be used
        self.drainers: dict[int, Drainer] = {}  # by build
        self._thread = BackgroundThread(
            "other-builds",
            self._look_later,
            stopping=self._stopping,
            on_unreachable=lambda error: None,
            logger=logger,
            failure="builds of other models could not be looked at",
        )

    def start(self) -> None:
        """Start the thread. It ends with `stop` or with the process."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Stop claiming, and wait for the requests in flight."""
        self._stopping.set()
        self._thread.join(timeout_seconds)
        for drainer in list(self.drainers.values()):
            drainer.stop(timeout_seconds)

    def look(self) -> None:
        """Start and stop drainers, as the list of builds is now."""
        with connection.checkout(self._url) as conn:
            active = {build.build: build for build in builds.active(conn) if self._is_other(build)}
        for number in self.drainers.keys() - active.keys():
            self.drainers.pop(number).stop(0.0)
        for number in active.keys() - self.drainers.keys():
            self._start(active[number])

    def _look_later(self) -> None:
        self.look()
        self._stopping.wait(LOOK_SECONDS)

    def _is_other(self, build: Build) -> bool:
        backend = self._served.get(build.index)
        return backend is not None and not Recipe.stored(build.recipe).is_made_by(backend)

    def _start(self, build: Build) -> None:
        try:
            embedder = self._embedder_of(build)
        except SettingsError as error:
            self._report(build, error)
            return
        self._reported.discard(build.build)
        drainer = Drainer(
            self._url, embedder.settings, embedder.backend, embedder.budget, indexes=[build.index]
        )
        self.drainers[build.build] = drainer
        drainer.start()

    def _report(self, build: Build, error: SettingsError) -> None:
        """Say in status and log, once, that inputs of a build wait for the settings."""
        with suppress(TemporaryError), connection.checkout(self._url) as conn:
            if build.build not in self._reported and queue.waiting(conn, build, limit=1)[0]:
                self._reported.add(build.build)
                builds.note_error(conn, build, str(error))
                logger.warning("index_set_aside", extra=log_fields(index=build.index, error=str(error)))
