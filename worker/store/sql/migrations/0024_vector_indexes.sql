-- The vector index waits for the end of a load: the sweep notes how fast a build grows. Existing builds count as loaded.

ALTER TABLE vector_index.builds ADD COLUMN seen_vectors bigint NOT NULL DEFAULT 0;
ALTER TABLE vector_index.builds ADD COLUMN seen_at timestamptz NOT NULL DEFAULT 'epoch';
ALTER TABLE vector_index.builds ADD COLUMN loading_at timestamptz NOT NULL DEFAULT 'epoch';
ALTER TABLE vector_index.builds ALTER COLUMN seen_at SET DEFAULT clock_timestamp();
ALTER TABLE vector_index.builds ALTER COLUMN loading_at SET DEFAULT clock_timestamp();
COMMENT ON COLUMN vector_index.builds.seen_vectors IS 'Vectors of the build when the sweep counted them last, up to a bound.';
COMMENT ON COLUMN vector_index.builds.seen_at IS 'When that was.';
COMMENT ON COLUMN vector_index.builds.loading_at IS 'When the build was last seen to grow fast; at first, when it was made.';
