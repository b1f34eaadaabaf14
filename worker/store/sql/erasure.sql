-- What applications have enqueued and no worker has staged yet, and is to be forgotten.

-- name: enqueued: documents of which an enqueued text passes a filter, in order: those rows, whether the newest is among
-- them, and what of the document is the newest revision now
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

-- name: erase: texts of these documents, or these rows, unless they are newer by their version than what is deleted; one
-- without a version is as new as what is before it. The highest version fences what is older and still on its way
WITH gone AS (
    DELETE FROM vector_index.outbox o
    WHERE o.index_name = (SELECT name FROM vector_index.indexes WHERE index_id = %(index_id)s)
        AND o.{key} = ANY(%(keys)s) AND (NOT o.deleted OR o.error IS NOT NULL)
        AND (coalesce(o.version, greatest(
            (SELECT d.version FROM vector_index.documents d WHERE d.index_id = %(index_id)s AND d.id = o.id),
            (SELECT max(e.version) FROM vector_index.outbox e
                WHERE e.index_name = o.index_name AND e.id = o.id AND e.seq < o.seq AND e.error IS NULL)
        )) <= %(version)s::bigint) IS NOT FALSE
    RETURNING o.id, o.version
)
INSERT INTO vector_index.documents AS d (index_id, id, deleted, version)
SELECT %(index_id)s, id, true, max(version) FROM gone WHERE version IS NOT NULL GROUP BY id ORDER BY id
ON CONFLICT (index_id, id) DO UPDATE SET version = greatest(d.version, excluded.version)
