-- Schedules of sources: when they are due, and who sends the run.

-- name: now: the clock that schedules use
SELECT clock_timestamp()

-- name: upsert: set the schedule of an index; an unchanged one keeps its due time
INSERT INTO vector_index.schedules AS s (index_name, schedule, timezone, due_at)
VALUES (%(index)s, %(schedule)s, %(timezone)s, %(due_at)s)
ON CONFLICT (index_name) DO UPDATE
SET schedule = excluded.schedule, timezone = excluded.timezone, due_at = excluded.due_at, claimed_until = NULL
WHERE (s.schedule, s.timezone) <> (excluded.schedule, excluded.timezone)

-- name: delete: delete the schedules of indexes that the settings name without one; others may belong to another
-- deployment
DELETE FROM vector_index.schedules WHERE index_name = ANY(%(indexes)s)

-- name: claim: claim schedules that are due, or whose run was sent long ago; each is given to one caller for a while
UPDATE vector_index.schedules s SET claimed_until = clock_timestamp() + %(seconds)s * interval '1 second'
WHERE s.index_name IN (
    SELECT index_name FROM vector_index.schedules
    WHERE index_name = ANY(%(indexes)s) AND coalesce(claimed_until < clock_timestamp(), true)
        AND (due_at <= clock_timestamp() OR sent_at < clock_timestamp() - %(patience)s * interval '1 second')
    ORDER BY index_name FOR UPDATE SKIP LOCKED)
RETURNING s.index_name AS index, s.schedule, s.timezone, s.due_at, s.claimed_until, s.task_id, s.scheduled_for,
    clock_timestamp() AS now,
    sent_at IS NOT NULL AND NOT EXISTS (SELECT FROM vector_index.runs r WHERE r.task_id = s.task_id) AS waits,
    coalesce(sent_at < clock_timestamp() - %(patience)s * interval '1 second', false) AS long_ago,
    EXISTS (SELECT FROM vector_index.reindexing r JOIN vector_index.indexes i USING (index_id)
        WHERE i.name = s.index_name AND r.until > clock_timestamp()) AS reads,
    EXISTS (SELECT FROM vector_index.indexes i
        WHERE i.name = s.index_name AND i.paused_at IS NOT NULL) AS paused

-- name: settle: end a claim, unless the settings changed or the claim expired
UPDATE vector_index.schedules SET due_at = %(next_due)s, claimed_until = NULL,
    task_id = %(task_id)s, scheduled_for = %(scheduled_for)s,
    sent_at = CASE WHEN %(sent)s THEN clock_timestamp() WHEN %(waits)s THEN sent_at END
WHERE index_name = %(index)s AND claimed_until = %(claimed_until)s

-- name: skip: record a skipped run; consecutive runs that were skipped for one reason share a row
WITH newest AS (
    SELECT run, outcome, message FROM vector_index.runs WHERE index_name = %(index)s ORDER BY run DESC LIMIT 1
), again AS (
    UPDATE vector_index.runs r SET finished_at = clock_timestamp() FROM newest n
    WHERE r.run = n.run AND n.outcome = 'skipped' AND n.message = %(message)s RETURNING r.run
)
INSERT INTO vector_index.runs (index_name, task_id, scheduled_for, finished_at, outcome, message)
SELECT %(index)s, %(task_id)s, %(due_at)s, clock_timestamp(), 'skipped', %(message)s
WHERE NOT EXISTS (SELECT FROM again) ON CONFLICT DO NOTHING

-- name: list: schedules with their newest run that was not skipped, and with a later skipped one
SELECT s.index_name AS index, s.schedule, s.timezone, s.due_at,
    extract(epoch FROM s.due_at - clock_timestamp())::float AS due_in_seconds, last.run AS last_run, skipped.run AS skipped
FROM vector_index.schedules s
LEFT JOIN LATERAL (
    SELECT to_jsonb(r) - ARRAY['run', 'index_name', 'cursor'] AS run, run AS number FROM vector_index.runs r
    WHERE r.index_name = s.index_name AND outcome <> 'skipped' ORDER BY run DESC LIMIT 1) last ON true
LEFT JOIN LATERAL (
    SELECT to_jsonb(r) - ARRAY['run', 'index_name', 'cursor'] AS run FROM vector_index.runs r
    WHERE r.index_name = s.index_name AND outcome = 'skipped' AND run > coalesce(last.number, 0)
    ORDER BY run DESC LIMIT 1) skipped ON true
WHERE s.index_name = ANY(%(indexes)s) ORDER BY s.index_name
