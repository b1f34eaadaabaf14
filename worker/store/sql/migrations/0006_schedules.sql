-- When sources are read again by themselves.

CREATE TABLE vector_index.schedules (
    index_name    text PRIMARY KEY,
    schedule      text NOT NULL,
    timezone      text NOT NULL,
    due_at        timestamptz NOT NULL,
    claimed_until timestamptz,
    task_id       text,
    scheduled_for timestamptz,
    sent_at       timestamptz
);
COMMENT ON TABLE vector_index.schedules IS 'A row per index with a SCHEDULE; the beat or a worker that starts makes them those of its settings.';
COMMENT ON COLUMN vector_index.schedules.index_name IS 'The index in the settings; its row may not be there yet.';
COMMENT ON COLUMN vector_index.schedules.schedule IS 'As in the settings: a crontab, or seconds.';
COMMENT ON COLUMN vector_index.schedules.timezone IS 'IANA name; the zone that a crontab is meant in.';
COMMENT ON COLUMN vector_index.schedules.due_at IS 'When it is due next; in the past: not yet looked at.';
COMMENT ON COLUMN vector_index.schedules.claimed_until IS 'A lease of who sends what is due, by the clock of this server: who dies over it is replaced. NULL: nobody does.';
COMMENT ON COLUMN vector_index.schedules.task_id IS 'The run that was sent last; until it has a row in runs it waits, or its message is lost.';
COMMENT ON COLUMN vector_index.schedules.scheduled_for IS 'When that run was due.';
COMMENT ON COLUMN vector_index.schedules.sent_at IS 'When its message was sent, last.';
