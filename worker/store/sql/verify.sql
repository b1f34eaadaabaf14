-- The checks of `verify` and their repairs. Each check returns keys with a name to show. It is one statement over one
-- slice, so one snapshot: it sees what commits together, together.

-- name: missing_documents: documents that the build does not serve, want or mark as failed in their newest revision
SELECT d.doc, d.id FROM vector_index.documents d LEFT JOIN {served} s USING (doc)
WHERE d.doc > %(after)s AND d.doc <= %(until)s AND d.index_id = %(index_id)s AND NOT d.deleted
    AND (s.doc IS NULL OR s.state <> 'failed' AND coalesce(d.head_rev NOT IN (coalesce(s.live_rev, 0), coalesce(s.want_rev, 0)), true))

-- name: deleted_but_served: served documents that are deleted or do not exist
SELECT s.doc, coalesce(d.id, s.doc::text) FROM {served} s LEFT JOIN vector_index.documents d USING (doc)
WHERE s.doc > %(after)s AND s.doc <= %(until)s AND (d.doc IS NULL OR d.deleted)

-- name: missing_text: live or wanted revisions without a stored text. OFFSET keeps plans from reading all revisions
SELECT s.doc, coalesce(d.id, s.doc::text) FROM {served} s LEFT JOIN vector_index.documents d USING (doc)
WHERE s.doc > %(after)s AND s.doc <= %(until)s AND (
    s.live_rev IS NOT NULL AND NOT EXISTS (SELECT FROM vector_index.revisions r WHERE r.rev = s.live_rev OFFSET 0)
    OR s.state = 'pending' AND NOT EXISTS (SELECT FROM vector_index.revisions r WHERE r.rev = s.want_rev OFFSET 0))

-- name: wrong_chunks: live and wanted revisions with their text and chunks, which the caller compares
SELECT s.doc, coalesce(d.id, s.doc::text), r.text, c.ordinals, c.starts, c.ends, c.hashes, c.headings, c.texts
FROM {served} s JOIN vector_index.revisions r ON r.doc = s.doc AND r.rev IN (s.live_rev, s.want_rev)
LEFT JOIN vector_index.documents d ON d.doc = s.doc
CROSS JOIN LATERAL (
    SELECT array_agg(ordinal) AS ordinals, array_agg(start) AS starts, array_agg("end") AS ends, array_agg(hash) AS hashes,
        array_agg(heading) AS headings, array_agg(text) AS texts
    FROM (SELECT * FROM {chunks} WHERE rev = r.rev ORDER BY ordinal) AS ordered
) c
WHERE s.doc > %(after)s AND s.doc <= %(until)s

-- name: orphan_chunks: chunks of revisions that are neither live nor wanted
SELECT DISTINCT c.rev, 'revision ' || c.rev FROM {chunks} c
WHERE c.rev > %(after)s AND c.rev <= %(until)s
    AND NOT EXISTS (SELECT FROM {served} s WHERE s.live_rev = c.rev) AND NOT EXISTS (SELECT FROM {served} s WHERE s.want_rev = c.rev)

-- name: missing_vectors: documents with a live chunk that has no vector. Contents come first, as both indexes have them
-- in this order
WITH missing AS MATERIALIZED (
    SELECT c.hash FROM {chunks} c WHERE c.hash > %(after)s AND c.hash <= %(until)s
        AND NOT EXISTS (SELECT FROM {embeddings} e WHERE e.hash = c.hash))
SELECT s.doc, coalesce(d.id, s.doc::text) FROM missing m
CROSS JOIN LATERAL (SELECT rev FROM {chunks} WHERE hash = m.hash OFFSET 0) c
JOIN {served} s ON s.live_rev = c.rev LEFT JOIN vector_index.documents d USING (doc)

-- name: missing_queue_entries: pending documents with a chunk that is neither embedded nor queued
SELECT s.doc, coalesce(d.id, s.doc::text) FROM {served} s LEFT JOIN vector_index.documents d USING (doc)
WHERE s.doc > %(after)s AND s.doc <= %(until)s AND s.state = 'pending' AND EXISTS (
    SELECT FROM {chunks} c WHERE c.rev = s.want_rev
        AND NOT EXISTS (SELECT FROM {embeddings} e WHERE e.hash = c.hash)
        AND NOT EXISTS (SELECT FROM {pending} p WHERE p.hash = c.hash))

-- name: unpublished_documents: complete documents that are not live. The name includes the revision, so that the next
-- one counts as another finding
SELECT s.doc, coalesce(d.id, s.doc::text) || ', revision ' || s.want_rev FROM {served} s LEFT JOIN vector_index.documents d USING (doc)
WHERE s.doc > %(after)s AND s.doc <= %(until)s AND s.state = 'pending' AND NOT EXISTS (
    SELECT FROM {chunks} c WHERE c.rev = s.want_rev AND NOT EXISTS (SELECT FROM {embeddings} e WHERE e.hash = c.hash))

-- name: exhausted_attempts: queued contents without attempts left that nobody holds, and that nothing is queued in
-- front of
SELECT p.hash, encode(p.hash, 'hex') FROM {pending} p
WHERE p.hash > %(after)s AND p.hash <= %(until)s AND p.attempts >= %(max_attempts)s
    AND p.visible_at < clock_timestamp() - interval '10 minutes'
    AND p.visible_at < coalesce((SELECT min(visible_at) FROM {pending} WHERE attempts < %(max_attempts)s), 'infinity')

-- name: bad_vectors: vectors of the wrong length, of zeros or with NaN; NaN is greater than every number
SELECT e.hash, encode(e.hash, 'hex') FROM {embeddings} e
WHERE e.ctid > %(after)s::tid AND e.ctid <= %(until)s::tid
    AND (vector_dims(e.embedding) <> %(dimensions)s OR NOT (e.embedding <#> e.embedding) < 0)

-- name: invalid_indexes: invalid Postgres indexes on the tables of the build, except those that are being built
SELECT c.relname, c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = ANY(%(tables)s::regclass[]) AND NOT (i.indisvalid AND i.indisready)
    AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)

-- name: unreported_jobs: quiet jobs whose documents are all done
SELECT j.task_id, j.task_id FROM vector_index.jobs j
WHERE j.index_id = %(index_id)s AND j.slice = 0 AND j.finished_at IS NULL
    AND j.touched_at < clock_timestamp() - interval '10 minutes'
    AND (SELECT count(*) = max(s.slices) FROM vector_index.jobs s WHERE s.task_id = j.task_id)
    AND NOT EXISTS (SELECT FROM vector_index.job_documents d JOIN {served} s USING (doc)
        WHERE d.task_id = j.task_id AND s.state = 'pending' AND coalesce(s.live_rev, 0) < d.rev)

-- name: lock_documents: lock documents of any index, by doc
SELECT FROM vector_index.documents WHERE doc = ANY(%(keys)s) ORDER BY doc FOR UPDATE

-- name: delete_served: delete served rows whose document is deleted or does not exist; returns their revisions
DELETE FROM {served} s WHERE s.doc = ANY(%(keys)s)
    AND NOT EXISTS (SELECT FROM vector_index.documents d WHERE d.doc = s.doc AND NOT d.deleted)
RETURNING s.live_rev, s.want_rev

-- name: delete_orphan_chunks: delete chunks of these revisions if they are neither live nor wanted
DELETE FROM {chunks} c WHERE c.rev = ANY(%(keys)s)
    AND NOT EXISTS (SELECT FROM {served} s WHERE s.live_rev = c.rev) AND NOT EXISTS (SELECT FROM {served} s WHERE s.want_rev = c.rev)

-- name: queue_documents: queue what the live and the wanted revisions of documents lack, by hash
INSERT INTO {pending} (hash, tokens, visible_at)
SELECT c.hash, min(c.tokens), clock_timestamp()
FROM {served} s JOIN {chunks} c ON c.rev IN (s.live_rev, s.want_rev)
WHERE s.doc = ANY(%(keys)s) AND (c.rev = s.live_rev OR s.state = 'pending')
    AND NOT EXISTS (SELECT FROM {embeddings} e WHERE e.hash = c.hash)
GROUP BY c.hash ORDER BY c.hash ON CONFLICT DO NOTHING

-- name: reset_attempts: set the attempts of contents to 0, by hash
UPDATE {pending} SET attempts = 0, token = NULL, visible_at = clock_timestamp() WHERE hash IN (
    SELECT hash FROM {pending} WHERE hash = ANY(%(keys)s) AND visible_at < clock_timestamp() ORDER BY hash FOR UPDATE)

-- name: delete_bad_vectors: delete vectors of the wrong length, of zeros or with NaN
DELETE FROM {embeddings} e WHERE e.hash = ANY(%(keys)s)
    AND (vector_dims(e.embedding) <> %(dimensions)s OR NOT (e.embedding <#> e.embedding) < 0)

-- name: queue_contents: queue contents that have a chunk and no vector, by hash
INSERT INTO {pending} (hash, tokens, visible_at)
SELECT c.hash, min(c.tokens), clock_timestamp() FROM {chunks} c
WHERE c.hash = ANY(%(keys)s) AND NOT EXISTS (SELECT FROM {embeddings} e WHERE e.hash = c.hash)
GROUP BY c.hash ORDER BY c.hash ON CONFLICT DO NOTHING

-- name: rebuild_index: rebuild an index while others read and write; runs outside a transaction
REINDEX INDEX CONCURRENTLY {index}

-- name: drop_index: drop an index while others read and write; runs outside a transaction
DROP INDEX CONCURRENTLY {index}

-- name: stored_revision: the newest revision of a document; text is NULL if it is not stored
SELECT d.doc, d.id, d.head_rev, r.title, r.metadata, r.text
FROM vector_index.documents d LEFT JOIN vector_index.revisions r ON r.rev = d.head_rev
WHERE d.doc = %(doc)s AND NOT d.deleted

-- name: clear_content_hash: make the next update of these documents count as changed, if their newest revision is not
-- stored
UPDATE vector_index.documents d SET content_hash = NULL WHERE d.doc = ANY(%(keys)s) AND NOT d.deleted
    AND NOT EXISTS (SELECT FROM vector_index.revisions r WHERE r.rev = d.head_rev)
RETURNING d.doc

-- name: fail_documents: fail documents with a reason and want nothing of them; a live revision that is stored stays
INSERT INTO {served} AS s (doc, want_rev, state, error, since)
SELECT doc, NULL, 'failed', %(error)s, clock_timestamp() FROM unnest(%(keys)s::bigint[]) AS doc ORDER BY doc
ON CONFLICT (doc) DO UPDATE SET want_rev = NULL, state = 'failed', error = excluded.error,
    live_rev = (SELECT r.rev FROM vector_index.revisions r WHERE r.rev = s.live_rev)
