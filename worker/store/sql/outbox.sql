-- The outbox. Applications insert rows while workers read: a row that commits later may have a lower number, so no
-- reader remembers a position. The transaction that stages a row deletes it.

-- name: has_rows: whether a row waits
SELECT EXISTS (SELECT FROM vector_index.outbox WHERE error IS NULL)

-- name: indexes_with_rows: those of the indexes that have waiting rows
SELECT name FROM unnest(%(names)s::text[]) AS name CROSS JOIN LATERAL (
    SELECT FROM vector_index.outbox WHERE index_name = name AND error IS NULL ORDER BY seq LIMIT 1) AS o

-- name: oldest_rows: the oldest waiting rows, without texts
SELECT seq, id, version, deleted, coalesce(octet_length(text), 0) AS size, attempts,
    extract(epoch FROM clock_timestamp() - tried_at)::float AS tried_seconds FROM vector_index.outbox
WHERE index_name = %(index)s AND error IS NULL ORDER BY seq LIMIT %(limit)s

-- name: row_contents: contents of rows, without texts that are too large; metadata as text, so that no parser can fail
SELECT seq, CASE WHEN octet_length(text) <= %(max_bytes)s THEN text END AS text, title, metadata::text AS metadata
FROM vector_index.outbox WHERE index_name = %(index)s AND seq = ANY(%(seqs)s)

-- name: begin_attempts: count an attempt at texts, except those that another worker has begun, taken or locked since
UPDATE vector_index.outbox o SET attempts = o.attempts + 1, tried_at = clock_timestamp() FROM (
    SELECT seq FROM vector_index.outbox JOIN unnest(%(seqs)s::bigint[], %(attempts)s::smallint[]) AS n (seq, attempts)
        USING (seq, attempts)
    WHERE index_name = %(index)s AND error IS NULL ORDER BY seq FOR UPDATE OF outbox SKIP LOCKED) n
WHERE o.index_name = %(index)s AND o.seq = n.seq RETURNING o.seq

-- name: cancel_attempts: take back the attempts of a process that is alive; most of the rows are gone by then
UPDATE vector_index.outbox o SET attempts = o.attempts - 1, tried_at = NULL FROM (
    SELECT seq FROM vector_index.outbox WHERE index_name = %(index)s AND seq = ANY(%(seqs)s) AND attempts > 0
    ORDER BY seq FOR UPDATE) n
WHERE o.index_name = %(index)s AND o.seq = n.seq

-- name: lock_rows: lock rows, except those that another worker has locked or taken
SELECT seq FROM vector_index.outbox WHERE index_name = %(index)s AND seq = ANY(%(seqs)s) AND error IS NULL
ORDER BY seq FOR UPDATE SKIP LOCKED

-- name: delete_rows: delete rows that are being staged
DELETE FROM vector_index.outbox WHERE index_name = %(index)s AND seq = ANY(%(seqs)s)

-- name: set_errors: keep rows that cannot be staged with the reason
UPDATE vector_index.outbox o SET error = n.error
FROM unnest(%(seqs)s::bigint[], %(errors)s::text[]) AS n (seq, error)
WHERE o.index_name = %(index)s AND o.seq = n.seq

-- name: delete_stale_rejections: delete rejected rows that are older than their document
DELETE FROM vector_index.outbox o
USING vector_index.documents d JOIN vector_index.indexes i USING (index_id)
WHERE o.index_name = %(index)s AND o.id = ANY(%(ids)s) AND o.error IS NOT NULL
    AND i.name = %(index)s AND d.id = o.id AND d.version > o.version

-- name: delete_superseded_rejections: delete rejected rows in front of another rejected row of their document; a row
-- with a version stays if the later one has none, as its version still fences
DELETE FROM vector_index.outbox o
WHERE o.index_name = %(index)s AND o.id = ANY(%(ids)s) AND o.error IS NOT NULL AND EXISTS (
    SELECT FROM vector_index.outbox n
    WHERE n.index_name = o.index_name AND n.id = o.id AND n.error IS NOT NULL AND n.seq > o.seq
        AND (o.version IS NULL OR o.version <= n.version))

-- name: delete_rejections: delete rejected rows of documents that have a newer revision, unless the row is newer by
-- version or was enqueued later. Their highest version becomes that of the document, and fences older updates that are
-- still on their way
WITH gone AS (
    DELETE FROM vector_index.outbox o
    USING unnest(%(ids)s::text[], %(versions)s::bigint[], %(before)s::bigint[]) AS n (id, version, before),
        vector_index.indexes i
    WHERE i.index_id = %(index_id)s AND o.index_name = i.name AND o.id = n.id AND o.error IS NOT NULL
        AND (o.version <= n.version) IS NOT FALSE AND (o.seq < n.before) IS NOT FALSE
    RETURNING o.id, o.version
)
UPDATE vector_index.documents d SET version = greatest(d.version, g.version)
FROM (SELECT id, max(version) AS version FROM gone GROUP BY id) g
WHERE d.index_id = %(index_id)s AND d.id = g.id AND g.version IS NOT NULL

-- name: clear_errors: let rejected rows be staged again
UPDATE vector_index.outbox SET error = NULL, attempts = 0, tried_at = NULL
WHERE index_name = %(index)s AND error IS NOT NULL AND (%(ids)s::text[] IS NULL OR id = ANY(%(ids)s))

-- name: counts: waiting rows of an index, the age of the oldest, and rejected rows
SELECT count(*) FILTER (WHERE error IS NULL) AS waiting, count(*) FILTER (WHERE error IS NOT NULL) AS rejected,
    coalesce(extract(epoch FROM clock_timestamp() - min(enqueued_at) FILTER (WHERE error IS NULL)), 0)::float
        AS oldest_seconds
FROM vector_index.outbox WHERE index_name = %(index)s

-- name: rows_of_unknown_indexes: number of waiting rows by name of indexes that the settings do not have
SELECT index_name, count(*) FROM vector_index.outbox WHERE index_name <> ALL(%(names)s) AND error IS NULL
GROUP BY index_name ORDER BY index_name
