-- Rows that nothing refers to. {key} and {table} name the column and the table to walk; {referenced} tells whether a
-- build refers to revision r.rev.

-- name: collections_due: indexes whose last collection is too old; each is given to one caller
UPDATE vector_index.indexes SET collected_at = clock_timestamp()
WHERE dropped_at IS NULL AND collected_at < clock_timestamp() - interval '1 second' * CASE
    WHEN erased_at IS NULL THEN %(seconds)s ELSE %(erased_seconds)s END
RETURNING name

-- name: slice_end: the key that ends a slice
SELECT {key} FROM {table} WHERE {key} > %(after)s ORDER BY {key} OFFSET %(size)s LIMIT 1

-- name: pages: number of pages of a table
SELECT pg_relation_size('{table}'::regclass) / current_setting('block_size')::int

-- name: lock_timeout: limit the wait for the lock, as everything behind a waiting collection waits too
SET LOCAL lock_timeout = '1s'

-- name: unreferenced_embeddings: vectors whose content has no chunk
SELECT e.hash, encode(e.hash, 'hex') FROM {embeddings} e
WHERE e.hash > %(after)s AND e.hash <= %(until)s AND NOT EXISTS (SELECT FROM {chunks} c WHERE c.hash = e.hash)

-- name: count_embeddings: number of vectors of a build
SELECT count(*) FROM {embeddings}

-- name: delete_embeddings: delete the vectors that still have no chunk
DELETE FROM {embeddings} e
WHERE e.hash = ANY(%(keys)s) AND NOT EXISTS (SELECT FROM {chunks} c WHERE c.hash = e.hash)

-- name: unreferenced_pending: queued contents that have no chunk
SELECT p.hash, encode(p.hash, 'hex') FROM {pending} p
WHERE p.hash > %(after)s AND p.hash <= %(until)s AND NOT EXISTS (SELECT FROM {chunks} c WHERE c.hash = p.hash)

-- name: delete_pending: delete the queued contents that still have no chunk, by hash
DELETE FROM {pending} WHERE hash IN (
    SELECT p.hash FROM {pending} p
    WHERE p.hash = ANY(%(keys)s) AND NOT EXISTS (SELECT FROM {chunks} c WHERE c.hash = p.hash) ORDER BY p.hash FOR UPDATE)

-- name: unreferenced_revisions: revisions that are neither the newest of their document nor live or wanted in a build
SELECT r.rev, coalesce(d.id, r.doc::text) FROM vector_index.revisions r LEFT JOIN vector_index.documents d USING (doc)
WHERE r.doc > %(after)s AND r.doc <= %(until)s AND (d.doc IS NULL OR d.index_id = %(index_id)s)
    AND d.head_rev IS DISTINCT FROM r.rev AND NOT ({referenced})

-- name: delete_revisions: delete the revisions that are still unreferenced
DELETE FROM vector_index.revisions r WHERE r.rev = ANY(%(keys)s) AND NOT ({referenced})
    AND NOT EXISTS (SELECT FROM vector_index.documents d WHERE d.doc = r.doc AND d.head_rev = r.rev)

-- name: is_referenced: condition: one build serves or wants the revision
EXISTS (SELECT FROM {served} s WHERE s.doc = r.doc AND r.rev IN (s.live_rev, s.want_rev))

-- name: old_tombstones: tombstones older than any late message
SELECT d.doc, d.id FROM vector_index.documents d
WHERE d.doc > %(after)s AND d.doc <= %(until)s AND d.index_id = %(index_id)s
    AND d.deleted AND d.changed_at < clock_timestamp() - %(days)s * interval '1 day'

-- name: delete_tombstones: delete the tombstones that are still old; an update that revives one holds the shared lock
DELETE FROM vector_index.documents
WHERE doc = ANY(%(keys)s) AND deleted AND changed_at < clock_timestamp() - %(days)s * interval '1 day'

-- name: erased_at: when documents of an index were last deleted; vectors of their earlier revisions may be left
SELECT erased_at FROM vector_index.indexes WHERE index_id = %(index_id)s

-- name: clear_erased: note that no such vector is left, unless documents were deleted since
UPDATE vector_index.indexes SET erased_at = NULL WHERE index_id = %(index_id)s AND erased_at = %(erased_at)s
