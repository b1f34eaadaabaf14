-- A run of reindexing has rows in hand that it read before a deletion by filter: it must not stage them afterwards.

ALTER TABLE vector_index.reindexing ADD COLUMN deletions jsonb NOT NULL DEFAULT '[]';
COMMENT ON COLUMN vector_index.reindexing.deletions IS 'Deletions by filter since the run began: a list of filter and version.';
COMMENT ON COLUMN vector_index.documents.changed_at IS 'When the newest revision last changed, or was last sent again while a run of reindexing read the source.';
