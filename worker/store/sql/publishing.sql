-- Publication of complete revisions.

-- name: lock_wanted: lock documents that have a wanted revision, by doc; waits for others that stage or publish them
SELECT doc, want_rev FROM {served} WHERE doc = ANY(%(docs)s) AND want_rev IS NOT NULL ORDER BY doc FOR UPDATE

-- name: has_revisions: documents of which a build has published this revision or a later one, or has failed it
SELECT w.doc FROM unnest(%(docs)s::bigint[], %(revs)s::bigint[]) AS w (doc, rev) JOIN {served} s USING (doc)
WHERE s.live_rev >= w.rev OR (s.state = 'failed' AND coalesce(s.want_rev, w.rev) >= w.rev)

-- name: publish: make the wanted revision live if it has every vector. A statement of its own, to see what others
-- committed while it waited for the locks
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

-- name: documents_waiting_for: documents whose wanted revision has one of these contents. The array keeps Postgres from
-- reading every wanted document, which it does where it takes a content to have many chunks
SELECT doc FROM {served} WHERE want_rev = ANY(ARRAY(SELECT rev FROM {chunks} WHERE hash = ANY(%(hashes)b))) ORDER BY doc
