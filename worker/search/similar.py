"""Find documents that are similar to a stored one, by the vectors that the index holds."""

from worker.documents import Passage
from worker.errors import InvalidQuery
from worker.index import Index
from worker.observability import events
from worker.search.passages import read_passages
from worker.search.queries import SimilarQuery
from worker.search.similarity import check_threshold, passes_threshold, vector_score
from worker.store import builds, connection, search
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.filters import Filter, compile_filter
from worker.store.search import Excluded, Hit, ReferenceDocument

CANDIDATES = 10  # contents in a ranking, for each document of the limit


def find_similar(index: Index, query: SimilarQuery) -> list[Passage]:
    """Return the best passage of each of the nearest documents, nearest first, without a request to the provider.

    Searches with the mean of the document's vectors. Returns none for a document that has no live vectors yet.
    Raises InvalidQuery for an id that the index (or the tenant, with TENANT_FIELD) does not have.
    """
    with events.search(index.name, "similar"):
        tenant = index.settings.tenant_field
        condition = compile_filter(query.filter, tenant_field=tenant)
        # the document itself need not pass the filter, but must belong to the tenant
        own = compile_filter({tenant: (query.filter or {})[tenant]} if tenant else None)
        with (
            connection.checkout(index.url) as conn,
            search.snapshot(conn, ef_search=index.settings.ef_search),
        ):
            build = builds.live(conn, index.name)
            asked = search.reference_document(conn, build, query.id, where=own) if build else None
            if build is None or asked is None:
                raise InvalidQuery(
                    f"there is no document {query.id!r} in index {index.name!r}: index it first, or correct "
                    "document_id"
                )
            check_threshold(query.similarity_threshold, build)
            if asked.embedding is None or not asked.embedding.any():
                return []
            hits = _nearest_documents(conn, build, asked, query, condition)
            near = [hit for hit in hits if passes_threshold(hit, build, query.similarity_threshold)]
            groups = [[(hit, vector_score(hit, build))] for hit in near[: query.limit]]
            return list(read_passages(conn, build, groups))


def _nearest_documents(
    conn: Connection, build: Build, asked: ReferenceDocument, query: SimilarQuery, where: Filter
) -> list[Hit]:
    """The best hit of each document, nearest first; ranks contents of further documents until the limit is reached."""
    assert asked.embedding is not None
    candidates = CANDIDATES * query.limit
    own = frozenset() if query.include_self else frozenset({asked.doc})
    best: dict[int, Hit] = {}
    while True:
        found = search.nearest(
            conn,
            build,
            asked.embedding,
            candidates=candidates,
            where=where,
            excluded=Excluded(documents=own | best.keys()),
            per_content=query.limit,
        )
        for hit in found.hits:
            best.setdefault(hit.doc, hit)
        if len(best) >= query.limit or found.contents < candidates:
            return list(best.values())
