-- Documents that were sent and could not be taken, for applications that read no results.

CREATE TABLE vector_index.refusals (
    index_id   integer NOT NULL REFERENCES vector_index.indexes,
    id         text NOT NULL,
    version    bigint,
    error      text NOT NULL,
    task_id    text NOT NULL,
    refused_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (index_id, id)
);
COMMENT ON TABLE vector_index.refusals IS 'Documents that were refused before they were stored, without their text. A row is deleted when the document is accepted or deleted, or after 30 days.';
COMMENT ON COLUMN vector_index.refusals.index_id IS 'Index of the document.';
COMMENT ON COLUMN vector_index.refusals.id IS 'Id given by the application; of a document without a usable id, its place in the message.';
COMMENT ON COLUMN vector_index.refusals.version IS 'Version given by the application; NULL: none, or not usable.';
COMMENT ON COLUMN vector_index.refusals.error IS 'Why it was refused, one sentence.';
COMMENT ON COLUMN vector_index.refusals.task_id IS 'Celery task id of the message or run.';
COMMENT ON COLUMN vector_index.refusals.refused_at IS 'When it was last refused.';

-- A numeric id counts as the whole number that messages and sources make of it: 7.00 is the document 7.
CREATE OR REPLACE FUNCTION vector_index.enqueue_document(
    index_name text, id anynonarray, text text, title text DEFAULT '', metadata jsonb DEFAULT '{}', version bigint DEFAULT NULL
) RETURNS void LANGUAGE sql AS $$
SELECT vector_index.enqueue_document($1,
    CASE WHEN pg_typeof($2) = 'numeric'::regtype THEN regexp_replace($2::text, '\.0+$', '') ELSE $2::text END, $3, $4, $5, $6)
$$;

CREATE OR REPLACE FUNCTION vector_index.enqueue_delete(index_name text, id anynonarray, version bigint DEFAULT NULL)
RETURNS void LANGUAGE sql AS $$
SELECT vector_index.enqueue_delete($1,
    CASE WHEN pg_typeof($2) = 'numeric'::regtype THEN regexp_replace($2::text, '\.0+$', '') ELSE $2::text END, $3)
$$;
