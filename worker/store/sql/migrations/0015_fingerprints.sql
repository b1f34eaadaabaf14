-- A task id that is used twice is a repetition only with the same content.

ALTER TABLE vector_index.jobs ADD COLUMN fingerprint bytea;
COMMENT ON COLUMN vector_index.jobs.fingerprint IS 'Hash of the message: another message under this task id is refused. NULL: not compared.';
