-- The history of tasks.reindex: a row per run, kept for 90 days. No text of documents is in it.

CREATE TABLE vector_index.runs (
    run           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    index_name    text NOT NULL,
    task_id       text NOT NULL UNIQUE,
    scheduled_for timestamptz,
    started_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at   timestamptz,
    outcome       text NOT NULL CHECK (outcome IN ('running', 'done', 'failed', 'skipped')),
    incremental   boolean NOT NULL DEFAULT false,
    read          bigint NOT NULL DEFAULT 0,
    staged        bigint NOT NULL DEFAULT 0,
    unchanged     bigint NOT NULL DEFAULT 0,
    deleted       bigint NOT NULL DEFAULT 0,
    rejected      bigint NOT NULL DEFAULT 0,
    message       text,
    cursor        jsonb
);
CREATE INDEX runs_index_name ON vector_index.runs (index_name, run);
COMMENT ON TABLE vector_index.runs IS 'The history of reindexing: what each run of tasks.reindex came to.';
COMMENT ON COLUMN vector_index.runs.run IS 'A later run has a higher number.';
COMMENT ON COLUMN vector_index.runs.index_name IS 'The index; its row may not be there yet, or no longer.';
COMMENT ON COLUMN vector_index.runs.task_id IS 'The Celery task id: a run that is delivered or tried again keeps its row.';
COMMENT ON COLUMN vector_index.runs.scheduled_for IS 'When the schedule wanted it; NULL: asked for by hand.';
COMMENT ON COLUMN vector_index.runs.started_at IS 'When it was taken up first.';
COMMENT ON COLUMN vector_index.runs.finished_at IS 'When it was read, staged and swept, or given up; documents may still wait for vectors.';
COMMENT ON COLUMN vector_index.runs.outcome IS 'skipped: nothing was read; failed: nothing was deleted; of both the message says why.';
COMMENT ON COLUMN vector_index.runs.incremental IS 'Only what a cursor calls newer was read, so that nothing could be deleted.';
COMMENT ON COLUMN vector_index.runs.read IS 'Documents that the source returned, those that could not be taken too.';
COMMENT ON COLUMN vector_index.runs.staged IS 'Of those, new or changed ones.';
COMMENT ON COLUMN vector_index.runs.unchanged IS 'Of those, what is searchable as it is.';
COMMENT ON COLUMN vector_index.runs.deleted IS 'Documents that the source has no longer.';
COMMENT ON COLUMN vector_index.runs.rejected IS 'Documents that could not be taken; the result of the task names them.';
COMMENT ON COLUMN vector_index.runs.message IS 'Why it was skipped or failed, or why a run that is done deleted nothing; else NULL.';
COMMENT ON COLUMN vector_index.runs.cursor IS 'Where the next incremental run begins, as the source wrote it; NULL: the source has no cursor.';
