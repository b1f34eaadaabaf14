-- A text whose staging kills the process must not do so for ever.

ALTER TABLE vector_index.outbox ADD COLUMN attempts smallint NOT NULL DEFAULT 0;
ALTER TABLE vector_index.outbox ADD COLUMN tried_at timestamptz;
COMMENT ON COLUMN vector_index.outbox.attempts IS 'Stagings of the text that are under way, or ended with their process.';
COMMENT ON COLUMN vector_index.outbox.tried_at IS 'When the last of them began; NULL: none is known.';
