-- Deleting documents, with everything that only they refer to.

-- name: mark_deleted: tombstones that keep their version
UPDATE vector_index.documents SET deleted = true, head_rev = NULL, content_hash = NULL,
    version = greatest(version, %(version)s::bigint), changed_at = clock_timestamp()
WHERE doc = ANY(%(docs)s)

-- name: delete_served: once locked in their order; why some of them had failed
DELETE FROM {served} WHERE doc = ANY(%(docs)s) RETURNING error

-- name: erase_chunks: of revisions of deleted documents; what they held
DELETE FROM {chunks} WHERE rev = ANY(%(revs)s) RETURNING hash

-- name: forget_last_error: of a build, where it was that of a deleted document
UPDATE vector_index.builds SET error = NULL, error_at = NULL WHERE build = %(build)s AND error = ANY(%(errors)s)

-- name: delete_revisions: title, metadata and text
DELETE FROM vector_index.revisions WHERE doc = ANY(%(docs)s)

-- name: note_erased: vectors of earlier contents may be left, which no chunk leads to: a collection that begins after this
-- finds them
UPDATE vector_index.indexes SET erased_at = clock_timestamp() WHERE index_id = %(index_id)s

-- name: forget_errors: why documents were never staged, which may quote them; their ids stay in the ledger
UPDATE vector_index.jobs SET rejected = (
    SELECT jsonb_agg(CASE WHEN entry ->> 'id' = ANY(%(ids)s::text[]) THEN entry || '{{"error": "deleted since"}}' ELSE entry END)
    FROM jsonb_array_elements(rejected) AS entry)
WHERE index_id = %(index_id)s AND rejected <> '[]' AND rejected @> ANY(%(entries)s::jsonb[])

-- name: delete_enqueued: texts of these documents, or these rows, unless they are newer by their version than what is deleted; one
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

-- name: rejected: what could not be staged of these documents; of those that have a number, what was enqueued before it
SELECT o.seq FROM vector_index.outbox o JOIN unnest(%(ids)s::text[], %(before)s::bigint[]) AS n (id, before) USING (id)
WHERE o.index_name = (SELECT name FROM vector_index.indexes WHERE index_id = %(index_id)s) AND o.error IS NOT NULL
    AND (o.seq < n.before) IS NOT FALSE
