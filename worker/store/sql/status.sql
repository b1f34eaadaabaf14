-- Figures of `status` and of the metrics, and the states of documents.

-- name: count_documents: documents of a build by state, and the age of the oldest pending one
SELECT count(*) FILTER (WHERE state = 'pending') AS pending, count(*) FILTER (WHERE state = 'live') AS live,
    count(*) FILTER (WHERE state = 'failed') AS failed,
    coalesce(extract(epoch FROM clock_timestamp() - min(since) FILTER (WHERE state = 'pending')), 0)::float AS oldest_seconds
FROM {served}

-- name: count_pending: contents that need a vector, and their tokens
SELECT count(*) AS chunks, coalesce(sum(tokens), 0)::bigint AS tokens FROM {pending}

-- name: count_embedded: contents that got a vector, from the statistics of Postgres: they lag by about a second and
-- restart after a crash, but cost the same for millions. Good for a rate
SELECT pg_stat_get_tuples_inserted(to_regclass(%(table)s)) AS embedded

-- name: list_builds: builds of one index
SELECT build, state, recipe, drift, error, jsonb_build_object('published', swept_published, 'queued', swept_queued) AS repairs
FROM vector_index.builds WHERE index_id = %(index_id)s ORDER BY build

-- name: limit_time: limit the time of each statement of this transaction
SET LOCAL statement_timeout = '30s'

-- name: list_indexes: every index with its live build, the builds that are being written, and the repairs of the sweep
SELECT i.name, i.live_build, i.paused_at IS NOT NULL AS paused,
    coalesce(sum(b.swept_published), 0)::bigint AS published, coalesce(sum(b.swept_queued), 0)::bigint AS queued,
    coalesce(array_agg(b.build) FILTER (WHERE b.state IN ('filling', 'closing', 'live')), ARRAY[]::bigint[]) AS written,
    (SELECT count(*) FROM vector_index.refusals r WHERE r.index_id = i.index_id) AS refused
FROM vector_index.indexes i LEFT JOIN vector_index.builds b USING (index_id)
WHERE i.dropped_at IS NULL GROUP BY i.index_id ORDER BY i.name

-- name: count_outbox: outbox rows that wait, and rows that cannot be staged
SELECT count(*) FILTER (WHERE error IS NULL) AS waiting, count(*) FILTER (WHERE error IS NOT NULL) AS failed
FROM vector_index.outbox

-- name: holdings: whether a build has documents, and whether one of them is searchable
SELECT EXISTS (SELECT FROM {served}), EXISTS (SELECT FROM {served} WHERE live_rev IS NOT NULL)

-- name: document_states: states of documents in one build
SELECT d.id, d.version, s.state, s.live_rev IS NOT NULL AS searchable, s.error
FROM vector_index.documents d LEFT JOIN {served} s USING (doc)
WHERE d.index_id = %(index_id)s AND d.id = ANY(%(ids)s) AND NOT d.deleted

-- name: unstaged_changes: why changes of documents in the outbox or in messages could not be staged, newest last
SELECT id, state, error FROM (
    SELECT id, 'failed' AS state, error, enqueued_at AS at FROM vector_index.outbox
    WHERE index_name = %(index)s AND id = ANY(%(ids)s) AND error IS NOT NULL
    UNION ALL
    SELECT id, 'refused', error, refused_at FROM vector_index.refusals WHERE index_id = %(index_id)s AND id = ANY(%(ids)s)
) unstaged ORDER BY at

-- name: failed_documents: a page of documents, by id, that failed, whose newest change cannot be staged, or that were
-- refused
SELECT DISTINCT ON (id) id, state, error, since, searchable FROM (
    SELECT d.id, 'failed' AS state, s.error, s.since, s.live_rev IS NOT NULL AS searchable, 0 AS newer
    FROM {served} s JOIN vector_index.documents d USING (doc)
    WHERE s.state = 'failed' AND d.id > %(after)s
    UNION ALL
    SELECT o.id, 'failed', o.error, o.enqueued_at, s.live_rev IS NOT NULL, 1
    FROM vector_index.outbox o LEFT JOIN vector_index.documents d ON d.index_id = %(index_id)s AND d.id = o.id
        LEFT JOIN {served} s USING (doc)
    WHERE o.index_name = %(index)s AND o.error IS NOT NULL AND o.id > %(after)s
    UNION ALL
    SELECT r.id, 'refused', r.error, r.refused_at, s.live_rev IS NOT NULL, 1
    FROM vector_index.refusals r LEFT JOIN vector_index.documents d USING (index_id, id) LEFT JOIN {served} s USING (doc)
    WHERE r.index_id = %(index_id)s AND r.id > %(after)s
) failed ORDER BY id, newer DESC, since DESC LIMIT %(limit)s
