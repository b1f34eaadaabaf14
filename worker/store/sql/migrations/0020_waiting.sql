-- An index gets its build with its first document, which may wait for the provider: status says why.

ALTER TABLE vector_index.indexes ADD COLUMN error text;
COMMENT ON COLUMN vector_index.indexes.error IS 'Why the index has no build yet: what its embedding backend answered last.';
