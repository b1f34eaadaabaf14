-- Indexes as a whole: paused, resumed, dropped. A dropped one has another name, so that its own is free.

-- name: paused_at: since when an index is paused; NULL: it is not. No row: there is no index of that name
SELECT paused_at FROM vector_index.indexes WHERE name = %(name)s

-- name: note_task: the ledger row of a task that changes an index; none when it did so before
INSERT INTO vector_index.jobs (task_id, slice, slices, index_id, counts, rejected, finished_at)
SELECT %(task_id)s, 0, 1, index_id, '{{}}', '[]', clock_timestamp() FROM vector_index.indexes WHERE name = %(name)s
ON CONFLICT DO NOTHING

-- name: pause: since when it is paused does not move
UPDATE vector_index.indexes SET paused_at = coalesce(paused_at, clock_timestamp()) WHERE name = %(name)s

-- name: resume: what waits goes on
UPDATE vector_index.indexes SET paused_at = NULL WHERE name = %(name)s

-- name: drop_report: what a task came to that dropped an index
SELECT drop_report FROM vector_index.indexes WHERE drop_report ->> 'task_id' = %(task_id)s

-- name: count_documents: that an index holds, roughly: others may write it meanwhile
SELECT count(*) FROM vector_index.documents WHERE index_id = %(index_id)s AND NOT deleted

-- name: lock_timeout: a drop waits no longer than this, as readers and writers that come behind it wait too
SET LOCAL lock_timeout = '2s'

-- name: drop_tables: of a build; waits for searches that read them
DROP TABLE {served}, {chunks}, {embeddings}, {pending}

-- name: delete_builds: of an index
DELETE FROM vector_index.builds WHERE index_id = %(index_id)s

-- name: end_reindexing: a run that reads the source of a dropped index has lost its lease
DELETE FROM vector_index.reindexing WHERE index_id = %(index_id)s

-- name: drop_index: free its name, and keep what a second delivery of the task is to report
UPDATE vector_index.indexes SET live_build = NULL, dropped_at = clock_timestamp(), drop_report = %(report)s,
    name = format('%%s (dropped, %%s)', name, index_id)
WHERE index_id = %(index_id)s

-- name: note_drop: there was no index to drop; delivered again, the task drops none that was made meanwhile
INSERT INTO vector_index.indexes (name, dropped_at, drop_report)
VALUES (format('%%s (dropped by %%s)', %(name)s::text, %(report)s::jsonb ->> 'task_id'), clock_timestamp(), %(report)s)
ON CONFLICT DO NOTHING

-- name: delete_named: some rows of a table that knows the index by its name, from before a time
DELETE FROM {table} WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {table} WHERE index_name = %(name)s AND {made_at} < %(before)s LIMIT %(limit)s FOR UPDATE SKIP LOCKED))

-- name: named: whether such rows are left
SELECT FROM {table} WHERE index_name = %(name)s AND {made_at} < %(before)s LIMIT 1

-- name: now: by the clock of this server
SELECT clock_timestamp()

-- name: dropped: indexes of which rows may be left
SELECT index_id FROM vector_index.indexes i WHERE dropped_at IS NOT NULL AND (
    EXISTS (SELECT FROM vector_index.documents d WHERE d.index_id = i.index_id)
    OR EXISTS (SELECT FROM vector_index.jobs j WHERE j.index_id = i.index_id))
ORDER BY index_id

-- name: delete_documents: some of a dropped index, with all of their revisions
WITH slice AS (
    SELECT doc FROM vector_index.documents WHERE index_id = %(index_id)s LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM vector_index.revisions WHERE doc IN (SELECT doc FROM slice)
)
DELETE FROM vector_index.documents WHERE doc IN (SELECT doc FROM slice)

-- name: bound_jobs: the task that ends a slice of the ledger
SELECT task_id FROM vector_index.jobs WHERE task_id > %(after)s ORDER BY task_id OFFSET %(limit)s LIMIT 1

-- name: delete_jobs: of a dropped index, in a slice of the ledger
DELETE FROM vector_index.jobs WHERE index_id = %(index_id)s AND task_id > %(after)s
    AND (%(until)s::text IS NULL OR task_id <= %(until)s)

-- name: forget: dropped indexes that no delivery of a task can reach any more
DELETE FROM vector_index.indexes i WHERE dropped_at < clock_timestamp() - %(days)s * interval '1 day'
    AND NOT EXISTS (SELECT FROM vector_index.documents d WHERE d.index_id = i.index_id)
    AND NOT EXISTS (SELECT FROM vector_index.jobs j WHERE j.index_id = i.index_id)
