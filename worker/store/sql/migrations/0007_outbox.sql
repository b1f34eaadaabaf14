-- What applications enqueue in their own transactions: two functions that write one table, which workers empty.

CREATE TABLE vector_index.outbox (
    seq         bigint GENERATED ALWAYS AS IDENTITY,
    index_name  text NOT NULL,
    id          text NOT NULL,
    deleted     boolean NOT NULL,
    text        text,
    title       text,
    metadata    jsonb,
    version     bigint,
    enqueued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    error       text,
    PRIMARY KEY (index_name, seq)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX outbox_waiting ON vector_index.outbox (index_name, seq) WHERE error IS NULL;
CREATE INDEX outbox_id ON vector_index.outbox (id);
CREATE INDEX outbox_rejected ON vector_index.outbox (index_name, id) WHERE error IS NOT NULL;
COMMENT ON TABLE vector_index.outbox IS 'What applications enqueued and no worker has staged yet. Applications only insert, without any key to wait for; the transaction that stages a row deletes it.';
COMMENT ON COLUMN vector_index.outbox.seq IS 'Order of one document, where whoever enqueues it holds a lock on its row; across documents it is not the order of commits: nothing may remember how far it has read.';
COMMENT ON COLUMN vector_index.outbox.index_name IS 'The index as the application names it; the settings need not know it.';
COMMENT ON COLUMN vector_index.outbox.id IS 'The id that the application gave.';
COMMENT ON COLUMN vector_index.outbox.deleted IS 'Delete the document; text, title and metadata are NULL.';
COMMENT ON COLUMN vector_index.outbox.text IS 'The text as given.';
COMMENT ON COLUMN vector_index.outbox.title IS 'The title as given, possibly empty.';
COMMENT ON COLUMN vector_index.outbox.metadata IS 'A JSON object.';
COMMENT ON COLUMN vector_index.outbox.version IS 'The version as given; NULL: in order of seq.';
COMMENT ON COLUMN vector_index.outbox.enqueued_at IS 'When it was enqueued.';
COMMENT ON COLUMN vector_index.outbox.error IS 'Why a worker cannot stage the row; NULL: it waits. Kept until a later change of the document, or a retry.';

CREATE FUNCTION vector_index.check_enqueued(index_name text, id text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(index_name, '') = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'index_name is missing: name an index of the settings, such as ''default''';
    ELSIF length(index_name) > 200 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('index_name has %s characters: name an index of the settings', length(index_name));
    ELSIF coalesce(id, '') = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'id is missing: give every document a string or an integer';
    ELSIF length(id) > 512 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('id has %s characters; at most 512 are allowed', length(id));
    END IF;
END $$;
COMMENT ON FUNCTION vector_index.check_enqueued IS 'Raises one sentence for an index name or an id that no worker could take.';

CREATE FUNCTION vector_index.enqueue_document(
    index_name text, id text, text text, title text DEFAULT '', metadata jsonb DEFAULT '{}', version bigint DEFAULT NULL
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM vector_index.check_enqueued(index_name, id);
    IF enqueue_document.text IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            'text of document %L is NULL: give a string, which may be empty, or delete the document with enqueue_delete', left(id, 80));
    ELSIF jsonb_typeof(metadata) <> 'object' THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            'metadata of document %L must be a JSON object, not %s', left(id, 80), jsonb_typeof(metadata));
    END IF;
    INSERT INTO vector_index.outbox (index_name, id, deleted, text, title, metadata, version) VALUES (
        enqueue_document.index_name, enqueue_document.id, false, enqueue_document.text,
        coalesce(enqueue_document.title, ''), coalesce(enqueue_document.metadata, '{}'), enqueue_document.version);
END $$;
COMMENT ON FUNCTION vector_index.enqueue_document(text, text, text, text, jsonb, bigint) IS 'Index a document once this transaction commits.';

CREATE FUNCTION vector_index.enqueue_delete(index_name text, id text, version bigint DEFAULT NULL)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM vector_index.check_enqueued(index_name, id);
    INSERT INTO vector_index.outbox (index_name, id, deleted, version)
    VALUES (enqueue_delete.index_name, enqueue_delete.id, true, enqueue_delete.version);
END $$;
COMMENT ON FUNCTION vector_index.enqueue_delete(text, text, bigint) IS 'Delete a document once this transaction commits.';

-- Ids of any other type: integers, UUIDs. Casts run with the rights of the caller, as he may have made them.

CREATE FUNCTION vector_index.enqueue_document(
    index_name text, id anynonarray, text text, title text DEFAULT '', metadata jsonb DEFAULT '{}', version bigint DEFAULT NULL
) RETURNS void LANGUAGE sql AS 'SELECT vector_index.enqueue_document($1, $2::text, $3, $4, $5, $6)';
COMMENT ON FUNCTION vector_index.enqueue_document(text, anynonarray, text, text, jsonb, bigint) IS 'The same, for an id that is no text.';

CREATE FUNCTION vector_index.enqueue_delete(index_name text, id anynonarray, version bigint DEFAULT NULL)
RETURNS void LANGUAGE sql AS 'SELECT vector_index.enqueue_delete($1, $2::text, $3)';
COMMENT ON FUNCTION vector_index.enqueue_delete(text, anynonarray, bigint) IS 'The same, for an id that is no text.';

REVOKE ALL ON FUNCTION vector_index.check_enqueued, vector_index.enqueue_document(text, text, text, text, jsonb, bigint),
    vector_index.enqueue_document(text, anynonarray, text, text, jsonb, bigint), vector_index.enqueue_delete(text, text, bigint),
    vector_index.enqueue_delete(text, anynonarray, bigint) FROM PUBLIC;
