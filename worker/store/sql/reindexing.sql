-- Runs of tasks.reindex.

-- name: take_lease: of an index, unless somebody holds it; the time of the start
INSERT INTO vector_index.reindexing AS r (index_id, task_id, token, until)
VALUES (%(index_id)s, %(task_id)s, %(token)s, clock_timestamp() + %(seconds)s * interval '1 second')
ON CONFLICT (index_id) DO UPDATE SET task_id = excluded.task_id, token = excluded.token, until = excluded.until
WHERE r.until < clock_timestamp()
RETURNING clock_timestamp()

-- name: holder: the task that holds the lease
SELECT task_id FROM vector_index.reindexing WHERE index_id = %(index_id)s

-- name: renew: none when somebody else has taken it
UPDATE vector_index.reindexing SET until = clock_timestamp() + %(seconds)s * interval '1 second'
WHERE index_id = %(index_id)s AND token = %(token)s

-- name: end: the run is over
DELETE FROM vector_index.reindexing WHERE index_id = %(index_id)s AND token = %(token)s

-- name: close_dead: runs of the index that say that they are running, while another one holds its lease
UPDATE vector_index.runs SET outcome = 'failed', finished_at = clock_timestamp(), message = %(message)s
WHERE index_name = %(index)s AND outcome = 'running' AND task_id <> %(task_id)s

-- name: start_run: a new row, or that of an earlier attempt of the task
INSERT INTO vector_index.runs (index_name, task_id, scheduled_for, outcome)
VALUES (%(index)s, %(task_id)s, %(scheduled_for)s, 'running')
ON CONFLICT (task_id) DO UPDATE SET outcome = 'running', finished_at = NULL, message = NULL

-- name: give_up_run: it was skipped or failed
INSERT INTO vector_index.runs (index_name, task_id, scheduled_for, outcome, message, finished_at)
VALUES (%(index)s, %(task_id)s, %(scheduled_for)s, %(outcome)s, %(message)s, clock_timestamp())
ON CONFLICT (task_id) DO UPDATE
    SET outcome = excluded.outcome, message = excluded.message, finished_at = excluded.finished_at

-- name: finish_run: what it came to
UPDATE vector_index.runs SET outcome = 'done', finished_at = clock_timestamp(), incremental = %(incremental)s,
    read = %(read)s, staged = %(staged)s, unchanged = %(unchanged)s, deleted = %(deleted)s, rejected = %(rejected)s,
    message = %(message)s, cursor = %(cursor)s
WHERE task_id = %(task_id)s

-- name: forget_runs: of the index, those that are too old; the clock is asked once, else no index is looked into
DELETE FROM vector_index.runs
WHERE index_name = %(index)s AND started_at < (SELECT clock_timestamp()) - %(days)s * interval '1 day'

-- name: last_complete: what the source returned when it was read as a whole and nothing spoke against deleting
SELECT read FROM vector_index.runs
WHERE index_name = %(index)s AND outcome = 'done' AND message IS NULL AND NOT incremental
ORDER BY finished_at DESC LIMIT 1

-- name: last_cursor: where the source had got to when it was read last, by the same query
SELECT cursor ->> 'reached' FROM vector_index.runs
WHERE index_name = %(index)s AND outcome = 'done' AND cursor ->> 'query' = %(query)s
ORDER BY finished_at DESC LIMIT 1

-- name: begin_again: what an earlier delivery found stale or wrong is found again
UPDATE vector_index.jobs SET counts = counts - 'stale', rejected = '[]' WHERE task_id = %(task_id)s

-- name: staged_docs: of earlier deliveries of the task
SELECT doc FROM vector_index.job_documents WHERE task_id = %(task_id)s

-- name: set_report: what the result says beside the counts
UPDATE vector_index.jobs SET report = %(report)s WHERE task_id = %(task_id)s AND slice = 0

-- name: count_documents: that the index holds
SELECT count(*) FROM vector_index.documents WHERE index_id = %(index_id)s AND NOT deleted

-- name: look: the documents that are known, each with its key and whether it is searchable as the source has it
SELECT d.id, d.doc, coalesce(
    d.content_hash = n.content_hash AND (n.version IS NULL OR n.version = d.version)
        AND s.live_rev = d.head_rev AND s.state = 'live', false)
FROM unnest(%(ids)s::text[], %(hashes)s::bytea[], %(versions)s::bigint[]) AS n (id, content_hash, version)
JOIN vector_index.documents d ON d.index_id = %(index_id)s AND d.id = n.id
LEFT JOIN {served} s ON s.doc = d.doc

-- name: documents_before: ids above `after`, in order, of documents that have not changed since a run began
SELECT id, doc, head_rev FROM vector_index.documents
WHERE index_id = %(index_id)s AND NOT deleted AND changed_at < %(since)s AND id > %(after)s ORDER BY id LIMIT %(limit)s
