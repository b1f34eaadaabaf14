-- The outbox. Applications insert while this runs: a row that is not visible yet may have any number, so nobody
-- remembers how far he has read. The transaction that stages a row deletes it.

-- name: indexes_with_rows: which of these indexes have rows that wait
SELECT name FROM unnest(%(names)s::text[]) AS name CROSS JOIN LATERAL (
    SELECT FROM vector_index.outbox WHERE index_name = name AND error IS NULL ORDER BY seq LIMIT 1) AS o

-- name: oldest: what waits longest, without its texts
SELECT seq, id, version, deleted, coalesce(octet_length(text), 0) AS size, attempts,
    extract(epoch FROM clock_timestamp() - tried_at)::float AS tried_seconds FROM vector_index.outbox
WHERE index_name = %(index)s AND error IS NULL ORDER BY seq LIMIT %(limit)s

-- name: read: what rows hold, but for texts that are too large to be taken; metadata as text, as no parser may fail
SELECT seq, CASE WHEN octet_length(text) <= %(max_bytes)s THEN text END AS text, title, metadata::text AS metadata
FROM vector_index.outbox WHERE index_name = %(index)s AND seq = ANY(%(seqs)s)

-- name: begin: count a staging of those of these texts that nobody has begun, taken or locked since they were looked at
UPDATE vector_index.outbox o SET attempts = o.attempts + 1, tried_at = clock_timestamp() FROM (
    SELECT seq FROM vector_index.outbox JOIN unnest(%(seqs)s::bigint[], %(attempts)s::smallint[]) AS n (seq, attempts)
        USING (seq, attempts)
    WHERE index_name = %(index)s AND error IS NULL ORDER BY seq FOR UPDATE OF outbox SKIP LOCKED) n
WHERE o.index_name = %(index)s AND o.seq = n.seq RETURNING o.seq

-- name: survived: a staging did not end its process; most of the rows are gone
UPDATE vector_index.outbox o SET attempts = o.attempts - 1, tried_at = NULL FROM (
    SELECT seq FROM vector_index.outbox WHERE index_name = %(index)s AND seq = ANY(%(seqs)s) AND attempts > 0
    ORDER BY seq FOR UPDATE) n
WHERE o.index_name = %(index)s AND o.seq = n.seq

-- name: lock: those of these rows that nobody else has locked or taken
SELECT seq FROM vector_index.outbox WHERE index_name = %(index)s AND seq = ANY(%(seqs)s) AND error IS NULL
ORDER BY seq FOR UPDATE SKIP LOCKED

-- name: delete: what is being staged
DELETE FROM vector_index.outbox WHERE index_name = %(index)s AND seq = ANY(%(seqs)s)

-- name: reject: rows that cannot be staged stay with the reason
UPDATE vector_index.outbox o SET error = n.error
FROM unnest(%(seqs)s::bigint[], %(errors)s::text[]) AS n (seq, error)
WHERE o.index_name = %(index)s AND o.seq = n.seq

-- name: forget_stale: what could not be staged of these documents, and is older than they are
DELETE FROM vector_index.outbox o
USING vector_index.documents d JOIN vector_index.indexes i USING (index_id)
WHERE o.index_name = %(index)s AND o.id = ANY(%(ids)s) AND o.error IS NOT NULL
    AND i.name = %(index)s AND d.id = o.id AND d.version > o.version

-- name: forget_superseded: what could not be staged of these documents, before another one that could not be either; a
-- version stays where that has none, as it will fence
DELETE FROM vector_index.outbox o
WHERE o.index_name = %(index)s AND o.id = ANY(%(ids)s) AND o.error IS NOT NULL AND EXISTS (
    SELECT FROM vector_index.outbox n
    WHERE n.index_name = o.index_name AND n.id = o.id AND n.error IS NOT NULL AND n.seq > o.seq
        AND (o.version IS NULL OR o.version <= n.version))

-- name: forget_rejected: what could not be staged of documents that have another revision now; unless it was newer, by its
-- version, or as it was enqueued behind what was staged. Its version fences what is older and still on its way
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

-- name: retry: let rows that could not be staged be tried again
UPDATE vector_index.outbox SET error = NULL, attempts = 0, tried_at = NULL
WHERE index_name = %(index)s AND error IS NOT NULL AND (%(ids)s::text[] IS NULL OR id = ANY(%(ids)s))

-- name: rejections: why changes of documents could not be staged, the newest last
SELECT id, error FROM vector_index.outbox
WHERE index_name = %(index)s AND id = ANY(%(ids)s) AND error IS NOT NULL ORDER BY seq

-- name: counts: rows of an index that wait, for how long the oldest has, and how many could not be staged
SELECT count(*) FILTER (WHERE error IS NULL) AS waiting, count(*) FILTER (WHERE error IS NOT NULL) AS rejected,
    coalesce(extract(epoch FROM clock_timestamp() - min(enqueued_at) FILTER (WHERE error IS NULL)), 0)::float
        AS oldest_seconds
FROM vector_index.outbox WHERE index_name = %(index)s

-- name: rows_of_unknown_indexes: rows of indexes that the settings do not have, by name
SELECT index_name, count(*) FROM vector_index.outbox WHERE index_name <> ALL(%(names)s) AND error IS NULL
GROUP BY index_name ORDER BY index_name
