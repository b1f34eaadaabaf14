"""Verify: compare the tables of an index with the protocol's rules, look again, and repair.

Each check reads one snapshot, so rows that commit together are seen together, and load alone raises no alarm. A state
that may exist for a moment between two commits (complete, to be published) is looked at again: only lasting faults are
reported.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import uuid4

from worker.documents import Document
from worker.index import Index
from worker.indexing import staging
from worker.indexing.draining.outcomes import MAX_ATTEMPTS
from worker.maintenance_results import Finding, Verified
from worker.store import builds, connection, jobs, status, verify
from worker.store.builds import Build
from worker.store.garbage import Key
from worker.store.jobs import JobSlice
from worker.store.verify import Check, StoredRevision

RECHECK_SECONDS = (0.5, 1.5, 3.0)  # pauses between the looks at a suspected fault
EXAMPLES = 5  # names that are reported, per check


@dataclass(kw_only=True)
class CheckResult:
    """The result of one check of one build."""

    build: Build
    check: Check
    names: dict[Key, str]  # by key; of garbage only EXAMPLES
    found: int
    repaired: int = 0

    def as_json(self) -> Finding:
        return {
            "build": self.build.build,
            "check": self.check.name,
            "problem": self.check.problem,
            "remedy": self.check.remedy,
            "fault": self.check.fault,
            "found": self.found,
            "examples": list(islice(self.names.values(), EXAMPLES)),
            "repaired": self.repaired,
        }


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """Checks one index, and repairs it."""

    index: Index
    wake: Callable[[], object]  # sends the waiting tasks of quiet jobs again

    def verify(self, *, repair: bool) -> Verified:
        """Check every writable build of the index. Returns the result of `tasks.verify`.

        Any number may run at once, under load, and again. A fault counts as repaired once its repair has begun: a
        document that was queued again is searchable only after it is embedded.
        """
        began = time.monotonic()
        with connection.checkout(self.index.url) as conn:
            live = builds.live(conn, self.index.name)
            written = [] if live is None else builds.writable(conn, live.index_id)
            counts = status.index_status(conn, live)
        results = [
            self._check(build, check)
            for build in written
            for check in verify.CHECKS
            if build == live or not check.live_only
        ]
        self._recheck(results)
        if repair:
            self._repair(results)
        return {
            "index": self.index.name,
            "healthy": all(item.repaired >= item.found for item in results if item.check.fault),
            "documents": counts["documents"],
            "checks": [item.as_json() for item in results],
            "swept": {str(build["build"]): build["repairs"] for build in counts["builds"]},
            "seconds": round(time.monotonic() - began, 2),
        }

    def _check(self, build: Build, check: Check) -> CheckResult:
        names: dict[Key, str] = {}
        found = 0
        with connection.checkout(self.index.url) as conn:
            for some in verify.find(conn, build, check, max_attempts=MAX_ATTEMPTS):
                found += len(some)
                if check.fault or len(names) < EXAMPLES:  # there may be millions of unused vectors
                    names |= some
        return CheckResult(build=build, check=check, names=names, found=len(names) if check.fault else found)

    def _recheck(self, results: Sequence[CheckResult]) -> None:
        """Drop the faults that were gone at a later look."""
        for seconds in RECHECK_SECONDS:
            suspects = [item for item in results if item.check.fault and item.found]
            if not suspects:
                return
            time.sleep(seconds)
            for item in suspects:
                still = self._check(item.build, item.check).names
                item.names = {key: name for key, name in item.names.items() if still.get(key) == name}
                item.found = len(item.names)

    def _repair(self, results: Iterable[CheckResult]) -> None:
        staged: set[Key] = set()
        for item in results:
            check, keys = item.check, list(item.names)
            with connection.checkout(self.index.url) as conn:
                if check.collect is not None:
                    item.repaired = check.collect(conn, item.build) if item.found else 0
                    continue
                if check.repair is not None:
                    verify.repair(conn, item.build, check, keys)
            if check.name == "unreported_jobs" and keys:
                self.wake()
            elif check.repair is None:
                self._restage(item.build.index_id, [key for key in keys if key not in staged])
                staged.update(keys)
            item.repaired = item.found

    def _restage(self, index_id: int, docs: Sequence[Any]) -> None:
        """Stage stored texts as new revisions; readers see the old revisions until the new ones are complete."""
        for some in staging.sliced(self._stored(docs), lambda item: len(item.text or "")):
            with_text = [item for item in some if item.text is not None]
            documents = [
                Document(id=item.id, text=item.text or "", title=item.title, metadata=item.metadata)
                for item in with_text
            ]
            job = JobSlice(task_id=f"verify-{uuid4()}", slice=0, slices=1, index_id=index_id)
            heads = {item.id: item.head_rev or 0 for item in with_text}
            staging.stage_slice(self.index, job, documents, 0, heads=heads)
            with connection.checkout(self.index.url) as conn:
                jobs.finish(conn, [job.task_id])  # no caller waits for its result
                verify.fail_without_text(conn, index_id, [item.doc for item in some if item.text is None])

    def _stored(self, docs: Sequence[int]) -> Iterator[StoredRevision]:
        for doc in docs:  # one text in memory at a time, and no connection held while it is split
            with connection.checkout(self.index.url) as conn:
                found = verify.stored_revision(conn, doc)
            if found is not None:
                yield found
