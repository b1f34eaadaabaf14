-- Pausing, dropping and erasing.

ALTER TABLE vector_index.indexes ADD COLUMN paused_at timestamptz;
ALTER TABLE vector_index.indexes ADD COLUMN erased_at timestamptz;
ALTER TABLE vector_index.indexes ADD COLUMN dropped_at timestamptz;
ALTER TABLE vector_index.indexes ADD COLUMN drop_report jsonb;
COMMENT ON COLUMN vector_index.indexes.paused_at IS 'Since when nothing of the index is sent to its provider; NULL: it is not paused.';
COMMENT ON COLUMN vector_index.indexes.erased_at IS 'When documents were deleted whose earlier contents may have vectors still; NULL: no such vector is left.';
COMMENT ON COLUMN vector_index.indexes.dropped_at IS 'When it was dropped; the name is free again, and what is left of its rows is being deleted.';
COMMENT ON COLUMN vector_index.indexes.drop_report IS 'Of a dropped index: the task that dropped it, and the result. Delivered again, that task drops no second index of the name.';

-- the few entries of documents that were refused, found by the id of a document that is to be forgotten
CREATE INDEX jobs_rejected ON vector_index.jobs USING gin (rejected jsonb_path_ops) WHERE rejected <> '[]';
