-- The rows of new revisions. Every transaction takes its locks in one order: index, documents by doc, served by doc,
-- pending by hash. Hashes are binary parameters: as text, psycopg escapes each of them.

-- name: unchanged: ids whose newest revision has this content
SELECT d.id FROM vector_index.documents d
JOIN unnest(%(ids)s::text[], %(hashes)b::bytea[]) AS n (id, content_hash) ON d.id = n.id
WHERE d.index_id = %(index_id)s AND d.content_hash = n.content_hash AND NOT d.deleted

-- name: known: ids with a document or a tombstone
SELECT id FROM vector_index.documents
WHERE index_id = %(index_id)s AND id = ANY(%(ids)s) AND (deleted OR head_rev IS NOT NULL)

-- name: insert_documents: insert rows for new ids
INSERT INTO vector_index.documents (index_id, id)
SELECT %(index_id)s, id FROM unnest(%(ids)s::text[]) AS id ORDER BY id ON CONFLICT DO NOTHING

-- name: lock_documents: lock documents, by doc
SELECT doc, id, head_rev, version, content_hash, deleted, changed_at FROM vector_index.documents
WHERE index_id = %(index_id)s AND id = ANY(%(ids)s) ORDER BY doc FOR UPDATE

-- name: next_revisions: as many new revision numbers as needed, rising
SELECT nextval('vector_index.revision_numbers') FROM generate_series(1, %(count)s)

-- name: copy_revisions: copy revisions, binary
COPY vector_index.revisions (rev, doc, title, metadata, text) FROM STDIN (FORMAT BINARY)

-- name: copy_chunks: copy chunks, binary
COPY {chunks} (rev, ordinal, hash, start, "end", tokens, heading, text, lexemes) FROM STDIN (FORMAT BINARY)

-- name: move_heads: make the new revisions the newest ones
UPDATE vector_index.documents d
SET head_rev = n.rev, version = coalesce(n.version, d.version), content_hash = n.content_hash, deleted = false,
    changed_at = clock_timestamp()
FROM unnest(%(docs)s::bigint[], %(revs)s::bigint[], %(versions)s::bigint[], %(hashes)b::bytea[])
    AS n (doc, rev, version, content_hash)
WHERE d.doc = n.doc

-- name: confirm: raise the versions of documents whose content is unchanged. While a run of reindexing reads the source,
-- their time moves too, so that the run neither replaces nor deletes them
UPDATE vector_index.documents d SET version = greatest(d.version, n.version), changed_at = clock_timestamp()
FROM unnest(%(docs)s::bigint[], %(versions)s::bigint[]) AS n (doc, version)
WHERE d.doc = n.doc AND (
    d.version IS DISTINCT FROM greatest(d.version, n.version)
    OR EXISTS (SELECT FROM vector_index.reindexing r WHERE r.index_id = d.index_id))

-- name: concerns: whether an index has refusals, rejected outbox rows, and a run of reindexing
SELECT EXISTS (SELECT FROM vector_index.refusals WHERE index_id = %(index_id)s),
    EXISTS (SELECT FROM vector_index.outbox o JOIN vector_index.indexes i ON i.name = o.index_name
        WHERE i.index_id = %(index_id)s AND o.error IS NOT NULL),
    EXISTS (SELECT FROM vector_index.reindexing WHERE index_id = %(index_id)s)

-- name: unsettled: those of these documents that serve another revision or wait for one
SELECT n.doc FROM unnest(%(docs)s::bigint[], %(revs)s::bigint[]) AS n (doc, rev) LEFT JOIN {served} s ON s.doc = n.doc
WHERE s.want_rev IS NOT NULL OR s.live_rev IS DISTINCT FROM n.rev

-- name: lock_served: lock served rows, by doc
SELECT doc, live_rev, want_rev, state FROM {served} WHERE doc = ANY(%(docs)s) ORDER BY doc FOR UPDATE

-- name: delete_chunks: delete the chunks of revisions that are no longer wanted or served
DELETE FROM {chunks} WHERE rev = ANY(%(revs)s)

-- name: want: want a revision; `since` stays if another one was wanted
INSERT INTO {served} (doc, want_rev, state, since)
SELECT doc, rev, 'pending', clock_timestamp() FROM unnest(%(docs)s::bigint[], %(revs)s::bigint[]) AS n (doc, rev)
ORDER BY doc
ON CONFLICT (doc) DO UPDATE SET want_rev = excluded.want_rev, state = 'pending', error = NULL,
    since = CASE WHEN {served}.want_rev IS NULL THEN excluded.since ELSE {served}.since END

-- name: want_again: make failed documents pending again
UPDATE {served} SET state = 'pending', error = NULL WHERE doc = ANY(%(docs)s) AND state = 'failed'

-- name: queue_chunks: queue what the wanted revisions lack, each content once, by hash
INSERT INTO {pending} (hash, tokens, priority, visible_at)
SELECT c.hash, min(c.tokens), %(priority)s, min(s.since)
FROM {served} s JOIN {chunks} c ON c.rev = s.want_rev
WHERE s.doc = ANY(%(docs)s) AND NOT EXISTS (SELECT FROM {embeddings} e WHERE e.hash = c.hash)
GROUP BY c.hash ORDER BY c.hash
ON CONFLICT DO NOTHING RETURNING hash, tokens

-- name: raise_priority: raise the priority of queued contents that also wait for less urgent work, by hash
UPDATE {pending} SET priority = %(priority)s WHERE hash IN (
    SELECT p.hash FROM {pending} p
    WHERE p.priority > %(priority)s AND p.hash IN (
        SELECT c.hash FROM {served} s JOIN {chunks} c ON c.rev = s.want_rev WHERE s.doc = ANY(%(docs)s))
    ORDER BY p.hash FOR UPDATE)
