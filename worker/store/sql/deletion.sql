-- Deletion of documents, with everything that only they refer to.

-- name: mark_deleted: turn documents into tombstones; they keep their highest version
UPDATE vector_index.documents SET deleted = true, head_rev = NULL, content_hash = NULL,
    version = greatest(version, %(version)s::bigint), changed_at = clock_timestamp()
WHERE doc = ANY(%(docs)s)

-- name: bury: turn documents without a revision into tombstones, each with the higher of its versions
UPDATE vector_index.documents d SET deleted = true, version = greatest(d.version, n.version), changed_at = clock_timestamp()
FROM unnest(%(docs)s::bigint[], %(versions)s::bigint[]) AS n (doc, version)
WHERE d.doc = n.doc AND (NOT d.deleted OR d.version IS DISTINCT FROM greatest(d.version, n.version))

-- name: delete_served: delete the served rows of documents, once locked in order; returns the errors of failed ones
DELETE FROM {served} WHERE doc = ANY(%(docs)s) RETURNING error

-- name: delete_chunks: delete the chunks of revisions; returns their contents
DELETE FROM {chunks} WHERE rev = ANY(%(revs)s) RETURNING hash

-- name: clear_last_error: clear the last error of a build if it is that of a deleted document
UPDATE vector_index.builds SET error = NULL, error_at = NULL WHERE build = %(build)s AND error = ANY(%(errors)s)

-- name: delete_revisions: delete title, metadata and text of all revisions of documents
DELETE FROM vector_index.revisions WHERE doc = ANY(%(docs)s)

-- name: mark_erased: note that vectors of earlier revisions may be left, which no chunk leads to; a collection that
-- begins later finds them
UPDATE vector_index.indexes SET erased_at = clock_timestamp() WHERE index_id = %(index_id)s

-- name: redact_errors: replace the errors of rejected documents, which may quote them; their ids stay in the ledger
UPDATE vector_index.jobs SET rejected = (
    SELECT jsonb_agg(CASE WHEN entry ->> 'id' = ANY(%(ids)s::text[]) THEN entry || '{{"error": "deleted since"}}' ELSE entry END)
    FROM jsonb_array_elements(rejected) AS entry)
WHERE index_id = %(index_id)s AND rejected <> '[]' AND rejected @> ANY(%(entries)s::jsonb[])

-- name: delete_enqueued: delete outbox rows by number or by document, unless their version is higher than that of the
-- deletion. A row without a version counts as new as the rows before it. The highest version of the deleted rows fences
-- older updates that are still on their way
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

-- name: rejected_rows: outbox rows of documents that could not be staged; where a number is given, only rows with a
-- lower one
SELECT o.seq FROM vector_index.outbox o JOIN unnest(%(ids)s::text[], %(before)s::bigint[]) AS n (id, before) USING (id)
WHERE o.index_name = (SELECT name FROM vector_index.indexes WHERE index_id = %(index_id)s) AND o.error IS NOT NULL
    AND (o.seq < n.before) IS NOT FALSE
