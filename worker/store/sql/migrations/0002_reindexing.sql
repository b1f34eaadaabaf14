-- Runs of tasks.reindex: one at a time for an index, and what their results say beside the counts.

CREATE TABLE vector_index.reindexing (
    index_id integer PRIMARY KEY REFERENCES vector_index.indexes,
    task_id  text NOT NULL,
    token    uuid NOT NULL,
    until    timestamptz NOT NULL
);
COMMENT ON TABLE vector_index.reindexing IS 'The run that reads the source of an index; a lease, as a run lasts longer than a transaction may.';
COMMENT ON COLUMN vector_index.reindexing.index_id IS 'The index.';
COMMENT ON COLUMN vector_index.reindexing.task_id IS 'The Celery task id: a redelivered run waits for its dead predecessor, any other is skipped.';
COMMENT ON COLUMN vector_index.reindexing.token IS 'Drawn anew by each run: two deliveries of one task are two runs.';
COMMENT ON COLUMN vector_index.reindexing.until IS 'When another run may take over, by the clock of this server.';

ALTER TABLE vector_index.jobs ADD COLUMN report jsonb;
COMMENT ON COLUMN vector_index.jobs.report IS 'In slice 0 of a reindexing: what its result has beside the counts; else NULL.';
