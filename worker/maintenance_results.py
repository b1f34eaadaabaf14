"""Results of the tasks for maintenance, with the meaning of each field."""

from typing import Annotated, TypedDict

from worker.reference import Meaning
from worker.results import DocumentCounts, IndexName, Repairs


class Finding(TypedDict):
    """The result of one check of one build."""

    build: Annotated[int, Meaning("number of the build")]
    check: Annotated[str, Meaning("name of the check")]
    problem: Annotated[str, Meaning("the kind of finding, in the plural")]
    remedy: Annotated[str, Meaning("the repair")]
    fault: Annotated[bool, Meaning("false: unused data, which every index has")]
    found: Annotated[int, Meaning("findings")]
    examples: Annotated[list[str], Meaning("names of up to five of them, such as ids of documents")]
    repaired: Annotated[int, Meaning("findings whose repair has begun")]


class Verified(TypedDict):
    """The consistency of an index."""

    index: IndexName
    healthy: Annotated[bool, Meaning("whether every fault that was found is repaired")]
    documents: Annotated[DocumentCounts, Meaning("documents by state")]
    checks: Annotated[list[Finding], Meaning("one for each build and check")]
    swept: Annotated[dict[str, Repairs], Meaning("by build: repairs of the sweep so far")]
    seconds: Annotated[float, Meaning("duration of the checks")]


class Collected(TypedDict):
    """Rows that a garbage collection deleted."""

    index: IndexName
    embeddings: Annotated[int, Meaning("vectors that no chunk refers to")]
    kept: Annotated[int, Meaning("such vectors that stay, in case their text comes back")]
    revisions: Annotated[int, Meaning("old revisions of documents")]
    pending: Annotated[int, Meaning("queued contents that no chunk has")]
    tombstones: Annotated[int, Meaning("ids and versions of documents deleted long ago")]


class VectorsIndexed(TypedDict):
    """The builds whose vector index was created or dropped."""

    index: IndexName
    builds: Annotated[list[int], Meaning("numbers of the builds that have a new vector index")]
    dropped: Annotated[list[int], Meaning("numbers of those whose vector index was dropped for a large load")]
