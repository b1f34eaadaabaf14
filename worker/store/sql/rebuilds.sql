-- A second build of an index: filled beside the live build, then switched to. {live_served} is the table `served` of the
-- live build.

-- name: builds_of: every build of an index with what a rebuild notes in it
SELECT b.build, b.index_id, i.name AS index, b.state, b.recipe, b.task_id, b.keep_old, b.copied, b.error,
    extract(epoch FROM clock_timestamp() - b.state_since)::float AS seconds,
    extract(epoch FROM clock_timestamp() - b.begun_at)::float AS age_seconds,
    coalesce(b.filling_until > clock_timestamp(), false) AS held
FROM vector_index.builds b JOIN vector_index.indexes i USING (index_id)
WHERE b.index_id = %(index_id)s ORDER BY b.build

-- name: abandoned: rebuilds whose worker has not renewed its lease for a while, of indexes that are not paused
SELECT i.name, b.build, b.task_id FROM vector_index.builds b JOIN vector_index.indexes i USING (index_id)
WHERE b.state IN ('filling', 'closing') AND i.dropped_at IS NULL AND i.paused_at IS NULL
    AND coalesce(b.filling_until, b.state_since) < clock_timestamp() - %(seconds)s * interval '1 second'

-- name: expired: retired builds whose grace period is over
SELECT index_id, build FROM vector_index.builds
WHERE state = 'retired' AND NOT keep_old AND state_since < clock_timestamp() - %(seconds)s * interval '1 second'

-- name: enter: insert the ledger row of a task that rebuilds an index; no row if that task has run before
INSERT INTO vector_index.jobs (task_id, slice, slices, index_id, fingerprint, counts, rejected, finished_at)
VALUES (%(task_id)s, 0, 1, %(index_id)s, %(fingerprint)s, '{{}}', '[]', clock_timestamp()) ON CONFLICT DO NOTHING

-- name: request: note the task that waits for the rebuild, and whether the replaced build is kept
UPDATE vector_index.builds SET task_id = %(task_id)s, keep_old = %(keep_old)s,
    begun_at = CASE WHEN task_id IS NULL THEN clock_timestamp() ELSE begun_at END
WHERE build = %(build)s

-- name: finish: note that nobody waits for the rebuild any more
UPDATE vector_index.builds SET task_id = NULL WHERE build = %(build)s

-- name: set_state: give a build its state
UPDATE vector_index.builds SET state = %(state)s, state_since = clock_timestamp() WHERE build = %(build)s

-- name: set_keep: note whether a retired build stays
UPDATE vector_index.builds SET keep_old = %(keep_old)s WHERE build = %(build)s

-- name: delete_build: delete the row of a build, once its tables are dropped
DELETE FROM vector_index.builds WHERE build = %(build)s

-- name: hold: take or renew the lease of the worker that fills a build; no row if another worker has it
UPDATE vector_index.builds SET filler = %(token)s, filling_until = clock_timestamp() + %(seconds)s * interval '1 second'
WHERE build = %(build)s AND state IN ('filling', 'closing')
    AND (filler = %(token)s OR coalesce(filling_until < clock_timestamp(), true))

-- name: release: release that lease
UPDATE vector_index.builds SET filling_until = clock_timestamp(), filler = NULL WHERE build = %(build)s AND filler = %(token)s

-- name: lock_timeout: limit the wait for locks, as readers and writers behind a waiting switch wait too
SET LOCAL lock_timeout = '1s'

-- name: unfilled: documents after a key, with the revision that the build needs. That is the newest one. Where it failed
-- in the live build, the revision that searches read comes first, and the newest one once that is searchable
SELECT w.doc, w.rev, octet_length(r.text) FROM (
    SELECT d.doc, CASE
        WHEN l.state = 'failed' AND coalesce(n.live_rev, 0) < l.live_rev THEN
            CASE WHEN n.want_rev = l.live_rev OR (n.state = 'pending' AND n.want_rev > l.live_rev) THEN NULL ELSE l.live_rev END
        WHEN coalesce(n.want_rev, n.live_rev, 0) < d.head_rev THEN d.head_rev END AS rev
    FROM vector_index.documents d LEFT JOIN {served} n USING (doc) LEFT JOIN {live_served} l USING (doc)
    WHERE d.index_id = %(index_id)s AND d.doc > %(after)s AND NOT d.deleted
) w JOIN vector_index.revisions r ON r.rev = w.rev
ORDER BY w.doc LIMIT %(limit)s

-- name: texts: revisions with their text
SELECT r.doc, r.rev, d.id, r.title, r.metadata, r.text
FROM vector_index.revisions r JOIN vector_index.documents d USING (doc) WHERE r.rev = ANY(%(revs)s) ORDER BY r.doc

-- name: lock_documents: lock documents by doc, with their newest revision
SELECT doc, head_rev FROM vector_index.documents WHERE doc = ANY(%(docs)s) AND NOT deleted ORDER BY doc FOR UPDATE

-- name: served: served rows of documents, without a lock
SELECT doc, live_rev, want_rev, state FROM {served} WHERE doc = ANY(%(docs)s)

-- name: stored_revisions: those revisions that are still stored
SELECT rev FROM vector_index.revisions WHERE rev = ANY(%(revs)s)

-- name: count_copied: add to the number of copied vectors
UPDATE vector_index.builds SET copied = copied + %(copied)s WHERE build = %(build)s

-- name: count_kept: count the vectors of a build that is filled again
UPDATE vector_index.builds SET copied = (SELECT count(*) FROM {embeddings}) WHERE build = %(build)s

-- name: lag: documents that the build lacks or serves in an older revision than the live build, and those that it has
-- failed although they are searchable today. While the live build waits for the vectors of such a document, it may fail
-- there too
SELECT count(*) FILTER (WHERE NOT failed) AS lagging, count(*) FILTER (WHERE is_unfilled) AS unfilled,
    count(*) FILTER (WHERE failed) AS failed,
    (array_agg(id ORDER BY id) FILTER (WHERE failed))[1:5] AS ids,
    (array_agg(error ORDER BY id) FILTER (WHERE failed))[1:5] AS errors
FROM (
    SELECT d.id, n.error, coalesce(n.want_rev, n.live_rev, 0) < d.head_rev AS is_unfilled,
        coalesce(n.state = 'failed' AND l.state <> 'pending' AND coalesce(n.live_rev, 0) < l.live_rev, false) AS failed
    FROM vector_index.documents d LEFT JOIN {served} n USING (doc) LEFT JOIN {live_served} l USING (doc)
    WHERE d.index_id = %(index_id)s AND NOT d.deleted AND d.head_rev IS NOT NULL AND (
        n.doc IS NULL OR l.live_rev > coalesce(n.live_rev, 0)
        -- a failed document that wants nothing has lost its newest text
        OR (coalesce(n.want_rev, n.live_rev, 0) < d.head_rev AND NOT (n.state = 'failed' AND n.want_rev IS NULL)))
) behind

-- name: progress: how far a build is filled
SELECT (SELECT count(*) FROM vector_index.documents WHERE index_id = %(index_id)s AND NOT deleted AND head_rev IS NOT NULL)
        AS documents,
    count(*) AS filled, count(*) FILTER (WHERE live_rev IS NOT NULL AND want_rev IS NULL) AS searchable,
    count(*) FILTER (WHERE state = 'failed') AS failed,
    (SELECT count(*) FROM {embeddings}) AS vectors,
    (SELECT count(*) FROM {pending}) AS pending_chunks, (SELECT coalesce(sum(tokens), 0)::bigint FROM {pending}) AS pending_tokens
FROM {served}

-- name: withheld: documents of the live build that are complete for all it knows, and may wait for the other build
SELECT doc FROM {served} WHERE want_rev IS NOT NULL AND state = 'pending' ORDER BY since LIMIT %(limit)s
