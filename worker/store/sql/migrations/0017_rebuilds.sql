-- Rebuilding: a second build is filled beside the live one.

ALTER TABLE vector_index.builds ADD COLUMN backend jsonb;
ALTER TABLE vector_index.builds ADD COLUMN drift jsonb NOT NULL DEFAULT '[]';
ALTER TABLE vector_index.builds ADD COLUMN task_id text;
ALTER TABLE vector_index.builds ADD COLUMN keep_old boolean NOT NULL DEFAULT false;
ALTER TABLE vector_index.builds ADD COLUMN copied bigint NOT NULL DEFAULT 0;
ALTER TABLE vector_index.builds ADD COLUMN state_since timestamptz NOT NULL DEFAULT clock_timestamp();
ALTER TABLE vector_index.builds ADD COLUMN begun_at timestamptz NOT NULL DEFAULT clock_timestamp();
ALTER TABLE vector_index.builds ADD COLUMN filler uuid;
ALTER TABLE vector_index.builds ADD COLUMN filling_until timestamptz;
COMMENT ON COLUMN vector_index.builds.backend IS 'Settings of the embedding backend of its vectors, without INIT_KWARGS, for the time after the settings name another model; NULL: not known.';
COMMENT ON COLUMN vector_index.builds.drift IS 'Differences between the recipe of the build and the settings, when a worker started last: a list of sentences.';
COMMENT ON COLUMN vector_index.builds.task_id IS 'Task that waits for the rebuild; NULL: none.';
COMMENT ON COLUMN vector_index.builds.keep_old IS 'Of a build that is being filled: keep the replaced build. Of a retired build: it stays until an operator drops it.';
COMMENT ON COLUMN vector_index.builds.copied IS 'Vectors copied from the live build while this build was filled.';
COMMENT ON COLUMN vector_index.builds.state_since IS 'When the build got its state.';
COMMENT ON COLUMN vector_index.builds.begun_at IS 'When its filling was begun last.';
COMMENT ON COLUMN vector_index.builds.filler IS 'Token of the worker that fills the build; NULL: none.';
COMMENT ON COLUMN vector_index.builds.filling_until IS 'Until when that worker holds its lease.';
