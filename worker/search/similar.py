"""Find documents that are similar to a stored one, or to a text, by the vectors that the index holds."""

from worker.errors import InvalidQuery
from worker.index import Index
from worker.observability import events
from worker.passages import Passage
from worker.search.embedding import embed_document
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
    """Return the best passage of each of the nearest documents, nearest first.

    Searches with the mean of the document's vectors, without a request to the provider, or with that of the text's.
    Returns none for a document that has no live vectors yet, and for a text while the index is empty.
    Raises InvalidQuery for an id that the index (or the tenant, with TENANT_FIELD) does not have, and the errors of the
    provider for a text.
    """
    with events.search(index.name, "similar"):
        where = compile_filter(query.filter, tenant_field=index.settings.tenant_field)
        with connection.checkout(index.url) as conn:
            build = builds.live(conn, index.name)
        asked = None
        if build is not None and query.text is not None:
            asked = ReferenceDocument(doc=None, embedding=embed_document(index, build, query.text))
        with (
            connection.checkout(index.url) as conn,
            search.snapshot(conn, ef_search=index.settings.ef_search),
        ):
            if query.id is not None:
                build, asked = _stored(conn, index, query)
            if build is None or asked is None:
                return []
            check_threshold(query.similarity_threshold, build)
            if asked.embedding is None or not asked.embedding.any():
                return []
            hits = _nearest_documents(conn, build, asked, query, where)
            near = [hit for hit in hits if passes_threshold(hit, build, query.similarity_threshold)]
            groups = [[(hit, vector_score(hit, build))] for hit in near[: query.limit]]
            return list(read_passages(conn, [build], groups))


def _stored(conn: Connection, index: Index, query: SimilarQuery) -> tuple[Build, ReferenceDocument]:
    """Read the document of the query. Raises InvalidQuery if the index, or the tenant, does not have it."""
    assert query.id is not None
    tenant = index.settings.tenant_field
    # the document itself need not pass the filter, but must belong to the tenant
    own = compile_filter({tenant: (query.filter or {})[tenant]} if tenant else None)
    build = builds.live(conn, index.name)
    asked = search.reference_document(conn, build, query.id, where=own) if build else None
    if build is None or asked is None:
        raise InvalidQuery(
            f"there is no document {query.id!r} in index {index.name!r}: index it first, or correct document_id"
        )
    return build, asked


def _nearest_documents(
    conn: Connection, build: Build, asked: ReferenceDocument, query: SimilarQuery, where: Filter
) -> list[Hit]:
    """The best hit of each document, nearest first; ranks contents of further documents until the limit is reached."""
    assert asked.embedding is not None
    candidates = CANDIDATES * query.limit
    own = frozenset() if query.include_self or asked.doc is None else frozenset({asked.doc})
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
