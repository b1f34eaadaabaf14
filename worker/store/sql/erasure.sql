-- What applications have enqueued and no worker has staged yet, and is to be forgotten.

-- name: enqueued: documents of which an enqueued text passes a filter, in order: those rows, whether the newest is among
-- them, and what of the document is the newest revision now
SELECT m.id, m.seqs, d.head_rev, m.seqs @> ARRAY(
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
LEFT JOIN vector_index.documents d ON d.index_id = %(index_id)s::integer AND d.id = m.id
ORDER BY m.id

-- name: erase_rows: these
DELETE FROM vector_index.outbox WHERE seq = ANY(%(seqs)s)

-- name: erase_enqueued: every text of these documents, unless it is newer by its version than what is deleted
DELETE FROM vector_index.outbox o
WHERE o.index_name = coalesce(%(name)s::text, (SELECT name FROM vector_index.indexes WHERE index_id = %(index_id)s::integer))
    AND o.id = ANY(%(ids)s) AND NOT o.deleted
    AND (o.version <= %(version)s::bigint) IS NOT FALSE
