-- Pausing, resuming and dropping indexes. A dropped index gets another name, so that its own is free.

-- name: paused_at: since when an index is paused, NULL if it is not; no row if the index does not exist
SELECT paused_at FROM vector_index.indexes WHERE name = %(name)s

-- name: insert_task: insert the ledger row of a task that changes an index; no row if that task has run before
INSERT INTO vector_index.jobs (task_id, slice, slices, index_id, fingerprint, counts, rejected, finished_at)
SELECT %(task_id)s, 0, 1, index_id, %(fingerprint)s, '{{}}', '[]', clock_timestamp() FROM vector_index.indexes WHERE name = %(name)s
ON CONFLICT DO NOTHING

-- name: pause: pause an index; a paused one keeps its time
UPDATE vector_index.indexes SET paused_at = coalesce(paused_at, clock_timestamp()) WHERE name = %(name)s

-- name: resume: resume an index
UPDATE vector_index.indexes SET paused_at = NULL WHERE name = %(name)s

-- name: drop_report: the result of a task that dropped an index before
SELECT drop_report FROM vector_index.indexes WHERE drop_report ->> 'task_id' = %(task_id)s

-- name: count_documents: number of documents of an index, an estimate while others write
SELECT count(*) FROM vector_index.documents WHERE index_id = %(index_id)s AND NOT deleted

-- name: lock_timeout: limit the wait for locks, as readers and writers behind a waiting drop wait too
SET LOCAL lock_timeout = '2s'

-- name: delete_builds: delete the builds of an index
DELETE FROM vector_index.builds WHERE index_id = %(index_id)s

-- name: delete_lease: delete the lease of the run that reads the source
DELETE FROM vector_index.reindexing WHERE index_id = %(index_id)s

-- name: drop_index: free the name of an index, and keep the result for a redelivered task
UPDATE vector_index.indexes SET live_build = NULL, dropped_at = clock_timestamp(), drop_report = %(report)s,
    name = format('%%s (dropped, %%s)', name, index_id)
WHERE index_id = %(index_id)s

-- name: insert_dropped: note that there was no index to drop, so that the redelivered task does not drop a later one
INSERT INTO vector_index.indexes (name, dropped_at, drop_report)
VALUES (format('%%s (dropped by %%s)', %(name)s::text, %(report)s::jsonb ->> 'task_id'), clock_timestamp(), %(report)s)
ON CONFLICT DO NOTHING

-- name: delete_named_rows: delete a slice of the rows that know the index by name and were made before a time
DELETE FROM {table} WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {table} WHERE index_name = %(name)s AND {made_at} < %(before)s LIMIT %(limit)s FOR UPDATE SKIP LOCKED))

-- name: has_named_rows: return a row if such rows are left
SELECT FROM {table} WHERE index_name = %(name)s AND {made_at} < %(before)s LIMIT 1

-- name: now: time of this server
SELECT clock_timestamp()

-- name: dropped_indexes: dropped indexes that may have rows left
SELECT index_id FROM vector_index.indexes i WHERE dropped_at IS NOT NULL AND (
    EXISTS (SELECT FROM vector_index.documents d WHERE d.index_id = i.index_id)
    OR EXISTS (SELECT FROM vector_index.refusals r WHERE r.index_id = i.index_id)
    OR EXISTS (SELECT FROM vector_index.jobs j WHERE j.index_id = i.index_id))
ORDER BY index_id

-- name: delete_documents: delete a slice of the documents of a dropped index, with their revisions
WITH slice AS (
    SELECT doc FROM vector_index.documents WHERE index_id = %(index_id)s LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM vector_index.revisions WHERE doc IN (SELECT doc FROM slice)
)
DELETE FROM vector_index.documents WHERE doc IN (SELECT doc FROM slice)

-- name: delete_refusals: delete a slice of the refusals of a dropped index
DELETE FROM vector_index.refusals WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM vector_index.refusals WHERE index_id = %(index_id)s LIMIT %(limit)s FOR UPDATE SKIP LOCKED))

-- name: jobs_slice_end: the task id that ends a slice of the ledger
SELECT task_id FROM vector_index.jobs WHERE task_id > %(after)s ORDER BY task_id OFFSET %(limit)s LIMIT 1

-- name: delete_jobs: delete the rows of a dropped index in a slice of the ledger
DELETE FROM vector_index.jobs WHERE index_id = %(index_id)s AND task_id > %(after)s
    AND (%(until)s::text IS NULL OR task_id <= %(until)s)

-- name: delete_dropped: delete dropped indexes without rows that no redelivered task can reach any more
DELETE FROM vector_index.indexes i WHERE dropped_at < clock_timestamp() - %(days)s * interval '1 day'
    AND NOT EXISTS (SELECT FROM vector_index.documents d WHERE d.index_id = i.index_id)
    AND NOT EXISTS (SELECT FROM vector_index.refusals r WHERE r.index_id = i.index_id)
    AND NOT EXISTS (SELECT FROM vector_index.jobs j WHERE j.index_id = i.index_id)
