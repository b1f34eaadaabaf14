-- Runs of tasks.reindex.

-- name: begin: take the lease of an index, unless somebody holds it; the time of the start
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

-- name: begin_again: what an earlier delivery found stale or wrong is found again
UPDATE vector_index.jobs SET counts = counts - 'stale', rejected = '[]' WHERE task_id = %(task_id)s

-- name: set_report: what the result says beside the counts
UPDATE vector_index.jobs SET report = %(report)s WHERE task_id = %(task_id)s AND slice = 0

-- name: count_documents: that the index holds
SELECT count(*) FROM vector_index.documents WHERE index_id = %(index_id)s AND NOT deleted

-- name: documents_before: ids above `after`, in order, of documents that have not changed since a run began, and heads
SELECT id, head_rev FROM vector_index.documents
WHERE index_id = %(index_id)s AND NOT deleted AND changed_at < %(since)s AND id > %(after)s ORDER BY id LIMIT %(limit)s
