-- What nothing refers to. {key} and {table} are what is walked, {referred} whether a build refers to r.rev.

-- name: collections_due: names of indexes whose garbage was not collected for a while; each is given once
UPDATE vector_index.indexes SET collected_at = clock_timestamp()
WHERE dropped_at IS NULL AND collected_at < clock_timestamp() - interval '1 second' * CASE
    WHEN erased_at IS NULL THEN %(seconds)s ELSE %(erased_seconds)s END
RETURNING name

-- name: bound: the key that ends a slice
SELECT {key} FROM {table} WHERE {key} > %(after)s ORDER BY {key} OFFSET %(size)s LIMIT 1

-- name: lock_timeout: a collection waits no longer than this, as what comes behind it waits too
SET LOCAL lock_timeout = '1s'

-- name: embeddings: contents that no chunk has any more
SELECT e.hash, encode(e.hash, 'hex') FROM {embeddings} e
WHERE e.hash > %(after)s AND e.hash <= %(until)s AND NOT EXISTS (SELECT FROM {chunks} c WHERE c.hash = e.hash)

-- name: count_embeddings: of a build
SELECT count(*) FROM {embeddings}

-- name: delete_embeddings: those that are still not referred to
DELETE FROM {embeddings} e
WHERE e.hash = ANY(%(keys)s) AND NOT EXISTS (SELECT FROM {chunks} c WHERE c.hash = e.hash)

-- name: pending: queued contents that no chunk has any more
SELECT p.hash, encode(p.hash, 'hex') FROM {pending} p
WHERE p.hash > %(after)s AND p.hash <= %(until)s AND NOT EXISTS (SELECT FROM {chunks} c WHERE c.hash = p.hash)

-- name: delete_pending: those that no chunk has still, by hash
DELETE FROM {pending} WHERE hash IN (
    SELECT p.hash FROM {pending} p
    WHERE p.hash = ANY(%(keys)s) AND NOT EXISTS (SELECT FROM {chunks} c WHERE c.hash = p.hash) ORDER BY p.hash FOR UPDATE)

-- name: revisions: that are neither the newest of their document nor shown or wanted by a build
SELECT r.rev, coalesce(d.id, r.doc::text) FROM vector_index.revisions r LEFT JOIN vector_index.documents d USING (doc)
WHERE r.doc > %(after)s AND r.doc <= %(until)s AND (d.doc IS NULL OR d.index_id = %(index_id)s)
    AND d.head_rev IS DISTINCT FROM r.rev AND NOT ({referred})

-- name: delete_revisions: those that are still not referred to
DELETE FROM vector_index.revisions r WHERE r.rev = ANY(%(keys)s) AND NOT ({referred})
    AND NOT EXISTS (SELECT FROM vector_index.documents d WHERE d.doc = r.doc AND d.head_rev = r.rev)

-- name: referred: whether one build shows or wants it
EXISTS (SELECT FROM {served} s WHERE s.doc = r.doc AND r.rev IN (s.live_rev, s.want_rev))

-- name: tombstones: of documents that were deleted so long ago that no late message can name them
SELECT d.doc, d.id FROM vector_index.documents d
WHERE d.doc > %(after)s AND d.doc <= %(until)s AND d.index_id = %(index_id)s
    AND d.deleted AND d.changed_at < clock_timestamp() - %(days)s * interval '1 day'

-- name: delete_tombstones: those that are so still; whoever puts a document in the place of one holds the shared lock
DELETE FROM vector_index.documents
WHERE doc = ANY(%(keys)s) AND deleted AND changed_at < clock_timestamp() - %(days)s * interval '1 day'

-- name: erased_at: when documents of an index were deleted, so that vectors of what they were before may be left
SELECT erased_at FROM vector_index.indexes WHERE index_id = %(index_id)s

-- name: all_erased: none of them is, as of then
UPDATE vector_index.indexes SET erased_at = NULL WHERE index_id = %(index_id)s AND erased_at = %(erased_at)s
