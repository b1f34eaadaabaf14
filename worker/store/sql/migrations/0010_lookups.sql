-- What is looked for by index and document, or by index and time, is found without reading what else an index has.

-- the longest name and id together fit into an entry of the index below: at most 4 bytes a character, 2,704 bytes in all
CREATE OR REPLACE FUNCTION vector_index.check_enqueued(index_name text, id text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(index_name, '') = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'index_name is missing: name an index of the settings, such as ''default''';
    ELSIF length(index_name) > 128 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('index_name has %s characters; at most 128 are allowed', length(index_name));
    ELSIF coalesce(id, '') = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'id is missing: give every document a string or an integer';
    ELSIF length(id) > 512 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('id has %s characters; at most 512 are allowed', length(id));
    END IF;
END $$;

-- with an index on the id alone, a planner that has no statistics yet also walks all rows of the index for each id
DROP INDEX vector_index.outbox_id;
CREATE INDEX outbox_id ON vector_index.outbox (index_name, id);

CREATE INDEX runs_started_at ON vector_index.runs (index_name, started_at);
CREATE INDEX runs_done ON vector_index.runs (index_name, finished_at) WHERE outcome = 'done';
