-- Publishing: make complete revisions live.

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

-- name: documents_waiting_for: documents that want one of these hashes
SELECT DISTINCT s.doc FROM {chunks} c JOIN {served} s ON s.want_rev = c.rev WHERE c.hash = ANY(%(hashes)s) ORDER BY s.doc
