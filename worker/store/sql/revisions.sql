-- Staging, publishing and deleting. The order of locks is the same everywhere:
-- index, documents by doc, served by doc, pending by hash.

-- name: insert_job: the ledger row of one slice; none when the slice was staged before
INSERT INTO vector_index.jobs (task_id, slice, slices, index_id, counts, rejected)
VALUES (%(task_id)s, %(slice)s, %(slices)s, %(index_id)s, '{{}}', %(rejected)s) ON CONFLICT DO NOTHING

-- name: slice_counts: what a slice came to
SELECT counts FROM vector_index.jobs WHERE task_id = %(task_id)s AND slice = %(slice)s

-- name: set_job_counts: what the slice came to, and whether nothing is left to wait for
UPDATE vector_index.jobs
SET counts = %(counts)s, finished_at = CASE WHEN %(finished)s THEN clock_timestamp() END
WHERE task_id = %(task_id)s AND slice = %(slice)s

-- name: insert_job_documents: what the job waits for
INSERT INTO vector_index.job_documents (task_id, slice, doc, rev, outcome)
SELECT %(task_id)s, %(slice)s, * FROM unnest(%(docs)s::bigint[], %(revs)s::bigint[], %(outcomes)s::text[])

-- name: insert_documents: rows for ids that are new
INSERT INTO vector_index.documents (index_id, id)
SELECT %(index_id)s, id FROM unnest(%(ids)s::text[]) AS id ORDER BY id ON CONFLICT DO NOTHING

-- name: lock_documents: by doc
SELECT doc, id, head_rev, version, content_hash, deleted FROM vector_index.documents
WHERE index_id = %(index_id)s AND id = ANY(%(ids)s) ORDER BY doc FOR UPDATE

-- name: unchanged: ids whose head has the content already
SELECT d.id FROM vector_index.documents d
JOIN unnest(%(ids)s::text[], %(hashes)s::bytea[]) AS n (id, content_hash) ON d.id = n.id
WHERE d.index_id = %(index_id)s AND d.content_hash = n.content_hash AND NOT d.deleted

-- name: next_revisions: as many numbers as asked for, rising
SELECT nextval('vector_index.revision_numbers') FROM generate_series(1, %(count)s)

-- name: copy_revisions: binary
COPY vector_index.revisions (rev, doc, title, metadata, text) FROM STDIN (FORMAT BINARY)

-- name: copy_chunks: binary
COPY {chunks} (rev, ordinal, hash, start, "end", tokens, heading, text) FROM STDIN (FORMAT BINARY)

-- name: move_heads: the documents become the new revisions
UPDATE vector_index.documents d
SET head_rev = n.rev, version = coalesce(n.version, d.version), content_hash = n.content_hash, deleted = false,
    changed_at = clock_timestamp()
FROM unnest(%(docs)s::bigint[], %(revs)s::bigint[], %(versions)s::bigint[], %(hashes)s::bytea[])
    AS n (doc, rev, version, content_hash)
WHERE d.doc = n.doc

-- name: raise_versions: the content is the same, the fence moves
UPDATE vector_index.documents d SET version = n.version
FROM unnest(%(docs)s::bigint[], %(versions)s::bigint[]) AS n (doc, version)
WHERE d.doc = n.doc AND (d.version IS NULL OR d.version < n.version)

-- name: lock_served: by doc
SELECT doc, live_rev, want_rev, state FROM {served} WHERE doc = ANY(%(docs)s) ORDER BY doc FOR UPDATE

-- name: delete_chunks: of revisions that are no longer wanted or served
DELETE FROM {chunks} WHERE rev = ANY(%(revs)s)

-- name: want: a revision is to become live; `since` stays while something was wanted already
INSERT INTO {served} (doc, want_rev, state, since)
SELECT doc, rev, 'pending', clock_timestamp() FROM unnest(%(docs)s::bigint[], %(revs)s::bigint[]) AS n (doc, rev)
ORDER BY doc
ON CONFLICT (doc) DO UPDATE SET want_rev = excluded.want_rev, state = 'pending', error = NULL,
    since = CASE WHEN {served}.want_rev IS NULL THEN excluded.since ELSE {served}.since END

-- name: want_again: a failed revision gets another chance
UPDATE {served} SET state = 'pending', error = NULL WHERE doc = ANY(%(docs)s) AND state = 'failed'

-- name: queue_chunks: what the wanted revisions of these documents lack, each content once, by hash
INSERT INTO {pending} (hash, tokens, priority, visible_at)
SELECT c.hash, min(c.tokens), %(priority)s, min(s.since)
FROM {served} s JOIN {chunks} c ON c.rev = s.want_rev
WHERE s.doc = ANY(%(docs)s) AND NOT EXISTS (SELECT FROM {embeddings} e WHERE e.hash = c.hash)
GROUP BY c.hash ORDER BY c.hash
ON CONFLICT DO NOTHING RETURNING tokens

-- name: raise_priority: contents that wait for less urgent work too, by hash
UPDATE {pending} SET priority = %(priority)s WHERE hash IN (
    SELECT p.hash FROM {pending} p
    WHERE p.priority > %(priority)s AND p.hash IN (
        SELECT c.hash FROM {served} s JOIN {chunks} c ON c.rev = s.want_rev WHERE s.doc = ANY(%(docs)s))
    ORDER BY p.hash FOR UPDATE)

-- name: lock_wanted: by doc; waits for whoever stages or publishes the same document
SELECT doc FROM {served} WHERE doc = ANY(%(docs)s) AND want_rev IS NOT NULL ORDER BY doc FOR UPDATE

-- name: publish: the locked documents whose wanted revision has every vector; its own statement, so that it
-- sees what was committed while it waited for the locks
WITH published AS (
    UPDATE {served} s SET live_rev = s.want_rev, want_rev = NULL, state = 'live', error = NULL
    FROM {served} former
    WHERE former.doc = s.doc AND s.doc = ANY(%(docs)s) AND s.want_rev IS NOT NULL AND NOT EXISTS (
        SELECT FROM {chunks} c
        WHERE c.rev = s.want_rev AND NOT EXISTS (SELECT FROM {embeddings} e WHERE e.hash = c.hash))
    RETURNING s.doc, former.live_rev
), gone AS (
    DELETE FROM {chunks} WHERE rev IN (SELECT live_rev FROM published)
)
SELECT id FROM published JOIN vector_index.documents USING (doc) ORDER BY id

-- name: touched_by: documents that want one of these hashes
SELECT DISTINCT s.doc FROM {chunks} c JOIN {served} s ON s.want_rev = c.rev WHERE c.hash = ANY(%(hashes)s) ORDER BY s.doc

-- name: mark_deleted: tombstones that keep their version
UPDATE vector_index.documents SET deleted = true, head_rev = NULL, content_hash = NULL,
    version = greatest(version, %(version)s::bigint), changed_at = clock_timestamp()
WHERE doc = ANY(%(docs)s)

-- name: erase_chunks: of revisions of deleted documents; what they held
DELETE FROM {chunks} WHERE rev = ANY(%(revs)s) RETURNING hash

-- name: note_erased: vectors of earlier contents may be left, which no chunk leads to: a collection that begins after this
-- finds them
UPDATE vector_index.indexes SET erased_at = clock_timestamp() WHERE index_id = %(index_id)s

-- name: forget_errors: why documents were never staged, which may quote them; their ids stay in the ledger
UPDATE vector_index.jobs SET rejected = (
    SELECT jsonb_agg(CASE WHEN entry ->> 'id' = ANY(%(ids)s::text[]) THEN entry || '{{"error": "deleted since"}}' ELSE entry END)
    FROM jsonb_array_elements(rejected) AS entry)
WHERE index_id = %(index_id)s AND rejected <> '[]' AND rejected @> ANY(%(entries)s::jsonb[])

-- name: delete_served: once locked in their order; why some of them had failed
DELETE FROM {served} WHERE doc = ANY(%(docs)s) RETURNING error

-- name: forget_last_error: of a build, where it was that of a deleted document
UPDATE vector_index.builds SET error = NULL, error_at = NULL WHERE build = %(build)s AND error = ANY(%(errors)s)

-- name: delete_revisions: title, metadata and text
DELETE FROM vector_index.revisions WHERE doc = ANY(%(docs)s)
