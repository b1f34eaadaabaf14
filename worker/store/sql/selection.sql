-- Documents that a deletion by filter takes. {filter} is a compiled condition over r.metadata.

-- name: enqueued: a page of documents with an enqueued text that passes a filter, by id: those rows, the newest
-- revision, and whether the newest enqueued text is among the rows
SELECT m.id, m.seqs, (
        SELECT head_rev FROM vector_index.documents d WHERE d.index_id = %(index_id)s AND d.id = m.id), m.seqs @> ARRAY(
    SELECT n.seq FROM vector_index.outbox n
    WHERE n.index_name = %(name)s AND n.id = m.id AND NOT EXISTS (
        SELECT FROM vector_index.outbox e
        WHERE e.index_name = n.index_name AND e.id = n.id AND e.seq < n.seq AND e.version > n.version)
    ORDER BY n.seq DESC LIMIT 1) AS newest
FROM (
    SELECT r.id, array_agg(r.seq) AS seqs FROM vector_index.outbox r
    WHERE r.index_name = %(name)s AND NOT r.deleted AND r.id > %(after)s AND {filter}
    GROUP BY r.id ORDER BY r.id LIMIT %(limit)s
) m
ORDER BY m.id

-- name: newest_revisions: a page of documents whose newest revision passes a filter, by id, with that revision
SELECT d.id, d.head_rev FROM vector_index.documents d JOIN vector_index.revisions r ON r.rev = d.head_rev
WHERE d.index_id = %(index_id)s AND d.id > %(after)s AND {filter} ORDER BY d.id LIMIT %(limit)s
