-- The ledger of jobs: what each slice of a message came to, and which documents its result waits for.

-- name: insert_slice: insert the ledger row of a slice; no row if it exists
INSERT INTO vector_index.jobs (task_id, slice, slices, index_id, fingerprint, counts, rejected)
VALUES (%(task_id)s, %(slice)s, %(slices)s, %(index_id)s, %(fingerprint)s, '{{}}', %(rejected)s) ON CONFLICT DO NOTHING

-- name: insert_jobs: insert the ledger rows of messages with one slice each, by task id; no row if it exists
INSERT INTO vector_index.jobs (task_id, slice, slices, index_id, fingerprint, counts, rejected)
SELECT n.task_id, 0, 1, %(index_id)s, n.fingerprint, '{{}}', n.rejected
FROM unnest(%(task_ids)s::text[], %(fingerprints)b::bytea[], %(rejected)s::jsonb[]) AS n (task_id, fingerprint, rejected)
ORDER BY n.task_id ON CONFLICT DO NOTHING

-- name: forget_dropped: delete what a task did in indexes that were dropped since
DELETE FROM vector_index.jobs WHERE task_id = %(task_id)s
    AND index_id IN (SELECT index_id FROM vector_index.indexes WHERE dropped_at IS NOT NULL)

-- name: other_use: return a row if a task id was used in another index, or with another fingerprint
SELECT FROM vector_index.jobs j JOIN vector_index.indexes i USING (index_id)
WHERE j.task_id = %(task_id)s AND i.dropped_at IS NULL
    AND (j.index_id IS DISTINCT FROM %(index_id)s::integer OR j.fingerprint <> %(fingerprint)s::bytea)
LIMIT 1

-- name: slice_counts: the counts of a slice
SELECT counts FROM vector_index.jobs WHERE task_id = %(task_id)s AND slice = %(slice)s

-- name: set_slice_counts: set the counts of a slice, and whether its job is finished
UPDATE vector_index.jobs
SET counts = %(counts)s, finished_at = CASE WHEN %(finished)s THEN clock_timestamp() END
WHERE task_id = %(task_id)s AND slice = %(slice)s

-- name: insert_job_documents: insert the documents and revisions that the job waits for
INSERT INTO vector_index.job_documents (task_id, slice, doc, rev, outcome)
SELECT %(task_id)s, %(slice)s, * FROM unnest(%(docs)s::bigint[], %(revs)s::bigint[], %(outcomes)s::text[])

-- name: set_counts_of_jobs: as `set_slice_counts`, of several jobs with one slice each
UPDATE vector_index.jobs j SET counts = n.counts
FROM unnest(%(task_ids)s::text[], %(counts)s::jsonb[]) AS n (task_id, counts)
WHERE j.task_id = n.task_id AND j.slice = 0

-- name: insert_documents_of_jobs: as `insert_job_documents`, of several jobs with one slice each
INSERT INTO vector_index.job_documents (task_id, slice, doc, rev, outcome)
SELECT n.task_id, 0, n.doc, n.rev, n.outcome
FROM unnest(%(task_ids)s::text[], %(docs)s::bigint[], %(revs)s::bigint[], %(outcomes)s::text[])
    AS n (task_id, doc, rev, outcome)

-- name: touch_job: note that the waiting task of a job is alive; at most every 15 s
UPDATE vector_index.jobs SET touched_at = clock_timestamp()
WHERE task_id = %(task_id)s AND slice = 0 AND touched_at < clock_timestamp() - interval '15 seconds'

-- name: settled_jobs: those jobs that have no pending document in the live build; as `job_states`, but stops at the first
SELECT id FROM unnest(%(task_ids)s::text[]) AS job (id) WHERE NOT EXISTS (
    SELECT FROM vector_index.job_documents d JOIN {served} s USING (doc)
    WHERE d.task_id = job.id AND s.state = 'pending' AND coalesce(s.live_rev < d.rev, true))

-- name: job_states: number of documents of each job by state in the live build, and the failed ones. A restarted run may
-- have staged a document twice
WITH mine AS (
    SELECT task_id, doc, max(rev) AS rev, min(outcome) AS outcome  -- indexed before unchanged
    FROM vector_index.job_documents WHERE task_id = ANY(%(task_ids)s) GROUP BY task_id, doc
), standing AS (
    SELECT mine.task_id, mine.doc, mine.outcome, s.error, CASE
        WHEN s.doc IS NULL OR s.live_rev > mine.rev THEN 'overtaken'
        WHEN s.live_rev = mine.rev THEN 'live'
        WHEN s.state = 'failed' AND s.want_rev > mine.rev THEN 'overtaken'
        ELSE s.state END AS state
    FROM mine LEFT JOIN {served} s USING (doc)
)
SELECT task_id, state, outcome, count(*) AS documents,
    coalesce(jsonb_agg(jsonb_build_object(
        'id', (SELECT d.id FROM vector_index.documents d WHERE d.doc = standing.doc), 'error', error
    )) FILTER (WHERE state = 'failed'), '[]') AS failed
FROM standing GROUP BY task_id, state, outcome

-- name: missing_vectors: contents without a vector in the wanted revisions of a job, and their tokens
SELECT count(*) AS chunks, coalesce(sum(tokens), 0)::bigint AS tokens FROM (
    SELECT min(c.tokens) AS tokens
    FROM (SELECT DISTINCT doc, rev FROM vector_index.job_documents WHERE task_id = %(task_id)s) mine
    JOIN {served} s ON s.doc = mine.doc AND s.want_rev = mine.rev
    JOIN {chunks} c ON c.rev = mine.rev
    WHERE NOT EXISTS (SELECT FROM {embeddings} e WHERE e.hash = c.hash) GROUP BY c.hash
) missing

-- name: job_counts: the ledger rows of each job, in order
SELECT task_id, slices, counts, rejected, report,
    extract(epoch FROM coalesce(finished_at, clock_timestamp()) - created_at)::float AS seconds
FROM vector_index.jobs JOIN vector_index.indexes USING (index_id)
WHERE task_id = ANY(%(task_ids)s) AND dropped_at IS NULL ORDER BY slice

-- name: finish_jobs: note that the results are being reported
UPDATE vector_index.jobs SET finished_at = clock_timestamp() WHERE task_id = ANY(%(task_ids)s) AND finished_at IS NULL

-- name: quiet_jobs: unfinished jobs whose waiting task is quiet; touched, so that each is given to one sweep
UPDATE vector_index.jobs j SET touched_at = clock_timestamp()
FROM vector_index.indexes i
WHERE i.index_id = j.index_id AND (j.task_id, j.slice) IN (
    SELECT task_id, slice FROM vector_index.jobs
    WHERE finished_at IS NULL AND slice = 0 AND touched_at < clock_timestamp() - %(seconds)s * interval '1 second'
        AND (%(names)s::text[] IS NULL OR index_id IN (SELECT index_id FROM vector_index.indexes WHERE name = ANY(%(names)s)))
        AND (SELECT count(*) = max(s.slices) FROM vector_index.jobs s WHERE s.task_id = jobs.task_id)
    ORDER BY touched_at LIMIT least(%(limit)s, greatest(0, (
        SELECT count(*) FROM vector_index.jobs WHERE finished_at IS NULL AND slice = 0) - %(waiting)s))
    FOR UPDATE SKIP LOCKED
)
RETURNING j.task_id, i.name

-- name: delete_expired: delete jobs that no redelivery can reach and whose result nobody waits for
DELETE FROM vector_index.jobs j WHERE created_at < clock_timestamp() - %(days)s * interval '1 day' AND NOT EXISTS (
    SELECT FROM vector_index.jobs f WHERE f.task_id = j.task_id AND f.slice = 0 AND f.finished_at IS NULL
        AND f.touched_at > clock_timestamp() - %(days)s * interval '1 day')
