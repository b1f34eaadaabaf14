-- The sweep, jobs, and what status shows.

-- name: builds_of: every build that is being written, of every index
SELECT build, index_id, name AS index, state, recipe FROM vector_index.builds JOIN vector_index.indexes USING (index_id)
WHERE state IN ('filling', 'closing', 'live') ORDER BY build

-- name: active_builds: likewise, but of indexes that are not paused
SELECT build, index_id, name AS index, state, recipe FROM vector_index.builds JOIN vector_index.indexes USING (index_id)
WHERE state IN ('filling', 'closing', 'live') AND paused_at IS NULL ORDER BY build

-- name: least_recently_checked: documents that wait, in turn
UPDATE {served} SET checked_at = clock_timestamp() WHERE doc IN (
    SELECT doc FROM {served} WHERE want_rev IS NOT NULL AND state = 'pending'
        AND checked_at < clock_timestamp() - %(seconds)s * interval '1 second'
    ORDER BY checked_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING doc

-- name: queue_missing: contents that are neither embedded nor pending; there should be none
INSERT INTO {pending} (hash, tokens, priority, visible_at)
SELECT c.hash, min(c.tokens), 0, min(s.since)
FROM {served} s JOIN {chunks} c ON c.rev = s.want_rev
WHERE s.doc = ANY(%(docs)s) AND s.state = 'pending'
    AND NOT EXISTS (SELECT FROM {embeddings} e WHERE e.hash = c.hash)
    AND NOT EXISTS (SELECT FROM {pending} p WHERE p.hash = c.hash)
GROUP BY c.hash ORDER BY c.hash ON CONFLICT DO NOTHING RETURNING hash

-- name: count_repairs: what a sweep had to mend, for good
UPDATE vector_index.builds SET swept_published = swept_published + %(published)s, swept_queued = swept_queued + %(queued)s
WHERE build = %(build)s

-- name: collections_due: names of indexes whose garbage was not collected for a while; each is given once
UPDATE vector_index.indexes SET collected_at = clock_timestamp()
WHERE dropped_at IS NULL AND collected_at < clock_timestamp() - interval '1 second' * CASE
    WHEN erased_at IS NULL THEN %(seconds)s ELSE %(erased_seconds)s END
RETURNING name

-- name: touch_job: its waiting task is alive
UPDATE vector_index.jobs SET touched_at = clock_timestamp()
WHERE task_id = %(task_id)s AND slice = 0 AND touched_at < clock_timestamp() - interval '15 seconds'

-- name: job_states: how many documents of a job stand where in the live build, and which have failed; a run that was
-- begun again staged some twice
WITH mine AS (
    SELECT doc, max(rev) AS rev, min(outcome) AS outcome  -- indexed before unchanged
    FROM vector_index.job_documents WHERE task_id = %(task_id)s GROUP BY doc
), standing AS (
    SELECT mine.doc, mine.outcome, s.error, CASE
        WHEN s.doc IS NULL OR s.live_rev > mine.rev THEN 'overtaken'
        WHEN s.live_rev = mine.rev THEN 'live'
        WHEN s.state = 'failed' AND s.want_rev > mine.rev THEN 'overtaken'
        ELSE s.state END AS state
    FROM mine LEFT JOIN {served} s USING (doc)
)
SELECT state, outcome, count(*) AS documents,
    coalesce(jsonb_agg(jsonb_build_object(
        'id', (SELECT d.id FROM vector_index.documents d WHERE d.doc = standing.doc), 'error', error
    )) FILTER (WHERE state = 'failed'), '[]') AS failed
FROM standing GROUP BY state, outcome

-- name: job_counts: what the slices of a job came to
SELECT slices, counts, rejected, report,
    extract(epoch FROM coalesce(finished_at, clock_timestamp()) - created_at)::float AS seconds
FROM vector_index.jobs JOIN vector_index.indexes USING (index_id)
WHERE task_id = %(task_id)s AND dropped_at IS NULL ORDER BY slice

-- name: finish_job: its result is being reported
UPDATE vector_index.jobs SET finished_at = clock_timestamp() WHERE task_id = %(task_id)s AND finished_at IS NULL

-- name: quiet_jobs: unfinished, and nobody has looked for a while; touched, so that one sweep takes each
UPDATE vector_index.jobs j SET touched_at = clock_timestamp()
FROM vector_index.indexes i
WHERE i.index_id = j.index_id AND (j.task_id, j.slice) IN (
    SELECT task_id, slice FROM vector_index.jobs
    WHERE finished_at IS NULL AND slice = 0 AND touched_at < clock_timestamp() - %(seconds)s * interval '1 second'
        AND (SELECT count(*) = max(s.slices) FROM vector_index.jobs s WHERE s.task_id = jobs.task_id)
    ORDER BY touched_at LIMIT least(%(limit)s, greatest(0, (
        SELECT count(*) FROM vector_index.jobs WHERE finished_at IS NULL AND slice = 0) - %(waiting)s))
    FOR UPDATE SKIP LOCKED
)
RETURNING j.task_id, i.name

-- name: forget_jobs: those that no redelivery can reach any more, and for whose result nobody waits
DELETE FROM vector_index.jobs j WHERE created_at < clock_timestamp() - %(days)s * interval '1 day' AND NOT EXISTS (
    SELECT FROM vector_index.jobs f WHERE f.task_id = j.task_id AND f.slice = 0 AND f.finished_at IS NULL
        AND f.touched_at > clock_timestamp() - %(days)s * interval '1 day')

-- name: count_documents: by state in one build
SELECT count(*) FILTER (WHERE state = 'pending') AS pending, count(*) FILTER (WHERE state = 'live') AS live,
    count(*) FILTER (WHERE state = 'failed') AS failed,
    coalesce(extract(epoch FROM clock_timestamp() - min(since) FILTER (WHERE state = 'pending')), 0)::float AS oldest_seconds
FROM {served}

-- name: count_pending: contents that need a vector
SELECT count(*) AS chunks, coalesce(sum(tokens), 0)::bigint AS tokens FROM {pending}

-- name: count_embedded: contents that got a vector; from Postgres's own statistics, which lag by a second or so and
-- begin anew after a crash: good for a rate, and as cheap for millions
SELECT pg_stat_get_tuples_inserted(to_regclass(%(table)s)) AS embedded

-- name: list_builds: of one index
SELECT build, state, recipe, error, jsonb_build_object('published', swept_published, 'queued', swept_queued) AS repairs
FROM vector_index.builds WHERE index_id = %(index_id)s ORDER BY build

-- name: document_states: of some ids, in one build
SELECT d.id, d.version, s.state, s.live_rev IS NOT NULL AS searchable, s.error
FROM vector_index.documents d LEFT JOIN {served} s USING (doc)
WHERE d.index_id = %(index_id)s AND d.id = ANY(%(ids)s) AND NOT d.deleted

-- name: failures: documents above an id, in order, that failed or whose newest change cannot be staged
SELECT DISTINCT ON (id) id, error, since, searchable FROM (
    SELECT d.id, s.error, s.since, s.live_rev IS NOT NULL AS searchable, 0 AS seq
    FROM {served} s JOIN vector_index.documents d USING (doc)
    WHERE s.state = 'failed' AND d.id > %(after)s
    UNION ALL
    SELECT o.id, o.error, o.enqueued_at, s.live_rev IS NOT NULL, o.seq
    FROM vector_index.outbox o LEFT JOIN vector_index.documents d ON d.index_id = %(index_id)s AND d.id = o.id
        LEFT JOIN {served} s USING (doc)
    WHERE o.index_name = %(index)s AND o.error IS NOT NULL AND o.id > %(after)s
) failed ORDER BY id, seq DESC LIMIT %(limit)s

-- name: limit_time: of each statement of this transaction
SET LOCAL statement_timeout = '30s'

-- name: list_indexes: each with its live build, those that are being written, and what the sweep had to mend in all
SELECT i.name, i.live_build, i.paused_at IS NOT NULL AS paused,
    coalesce(sum(b.swept_published), 0)::bigint AS published, coalesce(sum(b.swept_queued), 0)::bigint AS queued,
    coalesce(array_agg(b.build) FILTER (WHERE b.state IN ('filling', 'closing', 'live')), ARRAY[]::bigint[]) AS written
FROM vector_index.indexes i LEFT JOIN vector_index.builds b USING (index_id)
WHERE i.dropped_at IS NULL GROUP BY i.index_id ORDER BY i.name

-- name: count_outbox: what applications enqueued: rows that wait, and rows that no worker can take
SELECT count(*) FILTER (WHERE error IS NULL) AS waiting, count(*) FILTER (WHERE error IS NOT NULL) AS failed
FROM vector_index.outbox
