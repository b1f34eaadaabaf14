-- Runs of tasks.reindex: their lease, their history, and what the index knows of the documents of the source.

-- name: take_lease: take the lease of an index, unless another run holds it; returns the start time
INSERT INTO vector_index.reindexing AS r (index_id, task_id, token, until)
VALUES (%(index_id)s, %(task_id)s, %(token)s, clock_timestamp() + %(seconds)s * interval '1 second')
ON CONFLICT (index_id) DO UPDATE
    SET task_id = excluded.task_id, token = excluded.token, until = excluded.until, deletions = excluded.deletions
WHERE r.until < clock_timestamp()
RETURNING clock_timestamp()

-- name: lease_holder: the task that holds the lease
SELECT task_id FROM vector_index.reindexing WHERE index_id = %(index_id)s

-- name: renew_lease: renew the lease, and return the deletions by filter since the run began; no row if another run
-- has taken it
UPDATE vector_index.reindexing SET until = clock_timestamp() + %(seconds)s * interval '1 second'
WHERE index_id = %(index_id)s AND token = %(token)s RETURNING deletions

-- name: note_deletion: add a deletion by filter to the run that holds the lease, or held it last and died
UPDATE vector_index.reindexing SET deletions = deletions || %(deletion)s WHERE index_id = %(index_id)s

-- name: own_revisions: those newest revisions that the task of the run has staged or found unchanged
SELECT j.rev FROM vector_index.job_documents j
JOIN unnest(%(docs)s::bigint[], %(revs)s::bigint[]) AS n (doc, rev) ON j.doc = n.doc AND j.rev = n.rev
WHERE j.task_id = %(task_id)s

-- name: matching_rows: rows of the source that a deletion by filter takes; {filter} is compiled over r.metadata
SELECT r.doc FROM unnest(%(docs)s::bigint[], %(versions)s::bigint[], %(metadata)s::jsonb[]) AS r (doc, version, metadata)
WHERE (r.version <= %(version)s::bigint) IS NOT FALSE AND {filter}

-- name: release_lease: release the lease
DELETE FROM vector_index.reindexing WHERE index_id = %(index_id)s AND token = %(token)s

-- name: fail_dead_runs: mark runs as failed that say they are running while another one holds the lease
UPDATE vector_index.runs SET outcome = 'failed', finished_at = clock_timestamp(), message = %(message)s
WHERE index_name = %(index)s AND outcome = 'running' AND task_id <> %(task_id)s

-- name: start_run: insert a run, or reuse the row of an earlier attempt of its task
INSERT INTO vector_index.runs (index_name, task_id, scheduled_for, outcome)
VALUES (%(index)s, %(task_id)s, %(scheduled_for)s, 'running')
ON CONFLICT (task_id) DO UPDATE SET outcome = 'running', finished_at = NULL, message = NULL

-- name: abort_run: record a run that was skipped or failed
INSERT INTO vector_index.runs (index_name, task_id, scheduled_for, outcome, message, finished_at)
VALUES (%(index)s, %(task_id)s, %(scheduled_for)s, %(outcome)s, %(message)s, clock_timestamp())
ON CONFLICT (task_id) DO UPDATE
    SET outcome = excluded.outcome, message = excluded.message, finished_at = excluded.finished_at

-- name: finish_run: record the counts of a run that is done
UPDATE vector_index.runs SET outcome = 'done', finished_at = clock_timestamp(), incremental = %(incremental)s,
    read = %(read)s, staged = %(staged)s, unchanged = %(unchanged)s, deleted = %(deleted)s, rejected = %(rejected)s,
    message = %(message)s, cursor = %(cursor)s
WHERE task_id = %(task_id)s

-- name: delete_old_runs: delete runs that are too old; the clock is evaluated once, otherwise no index is used
DELETE FROM vector_index.runs
WHERE index_name = %(index)s AND started_at < (SELECT clock_timestamp()) - %(days)s * interval '1 day'

-- name: last_complete: number of documents in the last run that read the whole source and was allowed to delete
SELECT read FROM vector_index.runs
WHERE index_name = %(index)s AND outcome = 'done' AND message IS NULL AND NOT incremental
ORDER BY finished_at DESC LIMIT 1

-- name: last_cursor: where the last run with the same query ended
SELECT cursor ->> 'reached' FROM vector_index.runs
WHERE index_name = %(index)s AND outcome = 'done' AND cursor ->> 'query' = %(query)s
ORDER BY finished_at DESC LIMIT 1

-- name: reset_counts: reset what an earlier delivery counted as stale or rejected
UPDATE vector_index.jobs SET counts = counts - 'stale', rejected = '[]' WHERE task_id = %(task_id)s

-- name: staged_docs: documents that earlier deliveries of the task staged
SELECT doc FROM vector_index.job_documents WHERE task_id = %(task_id)s

-- name: set_report: set further fields of the result
UPDATE vector_index.jobs SET report = %(report)s WHERE task_id = %(task_id)s AND slice = 0

-- name: count_documents: number of documents of an index
SELECT count(*) FROM vector_index.documents WHERE index_id = %(index_id)s AND NOT deleted

-- name: known_documents: known documents, with their keys, and whether they are searchable as the source has them
SELECT d.id, d.doc, coalesce(
    d.content_hash = n.content_hash AND (n.version IS NULL OR n.version = d.version)
        AND s.live_rev = d.head_rev AND s.state = 'live', false)
FROM unnest(%(ids)s::text[], %(hashes)b::bytea[], %(versions)s::bigint[]) AS n (id, content_hash, version)
JOIN vector_index.documents d ON d.index_id = %(index_id)s AND d.id = n.id
LEFT JOIN {served} s ON s.doc = d.doc

-- name: unchanged_documents: a page of documents, by id, that have not changed since a run began
SELECT id, doc, head_rev FROM vector_index.documents
WHERE index_id = %(index_id)s AND NOT deleted AND changed_at < %(since)s AND id > %(after)s ORDER BY id LIMIT %(limit)s
