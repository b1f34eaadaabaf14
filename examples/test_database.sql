-- The functions of vector-index-worker for a test database, without its tables, workers and pgvector.
--
--     psql -f test_database.sql
--
-- Code and triggers that enqueue documents work, and each call is a row of the table vector_index.enqueued, so that a
-- test can look at it. It can run any number of times, and refuses a database that has the real schema.

DO $$ BEGIN
    IF to_regclass('vector_index.migrations') IS NOT NULL THEN
        RAISE EXCEPTION 'this database has the real schema vector_index: run this file in test databases only';
    END IF;
END $$;

CREATE SCHEMA IF NOT EXISTS vector_index;

CREATE TABLE IF NOT EXISTS vector_index.enqueued (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    index_name text NOT NULL, id text NOT NULL, deleted boolean NOT NULL,
    text text, title text, metadata jsonb, version bigint
);

CREATE OR REPLACE FUNCTION vector_index.check_enqueued(index_name text, id text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(index_name, '') = '' OR length(index_name) > 128 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'index_name is missing, or longer than 128 characters';
    ELSIF coalesce(id, '') = '' OR length(id) > 512 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'id is missing, or longer than 512 characters';
    END IF;
END $$;

CREATE OR REPLACE FUNCTION vector_index.enqueue_document(
    index_name text, id text, text text, title text DEFAULT '', metadata jsonb DEFAULT '{}', version bigint DEFAULT NULL
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM vector_index.check_enqueued(index_name, id);
    IF enqueue_document.text IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'text is NULL: give a string, which may be empty';
    ELSIF jsonb_typeof(metadata) <> 'object' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'metadata must be a JSON object';
    END IF;
    INSERT INTO vector_index.enqueued (index_name, id, deleted, text, title, metadata, version) VALUES (
        enqueue_document.index_name, enqueue_document.id, false, enqueue_document.text,
        coalesce(enqueue_document.title, ''), coalesce(enqueue_document.metadata, '{}'), enqueue_document.version);
END $$;

CREATE OR REPLACE FUNCTION vector_index.enqueue_delete(index_name text, id text, version bigint DEFAULT NULL)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM vector_index.check_enqueued(index_name, id);
    INSERT INTO vector_index.enqueued (index_name, id, deleted, version)
    VALUES (enqueue_delete.index_name, enqueue_delete.id, true, enqueue_delete.version);
END $$;

CREATE OR REPLACE FUNCTION vector_index.enqueue_document(
    index_name text, id anynonarray, text text, title text DEFAULT '', metadata jsonb DEFAULT '{}', version bigint DEFAULT NULL
) RETURNS void LANGUAGE sql AS 'SELECT vector_index.enqueue_document($1, $2::text, $3, $4, $5, $6)';

CREATE OR REPLACE FUNCTION vector_index.enqueue_delete(index_name text, id anynonarray, version bigint DEFAULT NULL)
RETURNS void LANGUAGE sql AS 'SELECT vector_index.enqueue_delete($1, $2::text, $3)';
