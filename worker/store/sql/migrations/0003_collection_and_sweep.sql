-- When garbage was collected last, and what the sweep had to mend.

ALTER TABLE vector_index.indexes ADD COLUMN collected_at timestamptz NOT NULL DEFAULT clock_timestamp();
COMMENT ON COLUMN vector_index.indexes.collected_at IS 'When what nothing refers to was collected last, or the collection was sent.';

ALTER TABLE vector_index.builds ADD COLUMN swept_published bigint NOT NULL DEFAULT 0;
ALTER TABLE vector_index.builds ADD COLUMN swept_queued bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN vector_index.builds.swept_published IS 'Documents so far that the sweep published: somebody died between save and publish.';
COMMENT ON COLUMN vector_index.builds.swept_queued IS 'Contents so far that the sweep found neither embedded nor pending: the protocol has no such state, so each is a bug.';

-- the old revisions are found in the index alone
CREATE INDEX revisions_doc_rev ON vector_index.revisions (doc, rev);
DROP INDEX vector_index.revisions_doc;
