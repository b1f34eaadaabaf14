-- Full text beside the vectors: an inverted index of the chunks of every build, and one of the metadata.

UPDATE vector_index.builds SET recipe = recipe || '{"language": "english"}' WHERE NOT recipe ? 'language';

-- as ../build.sql makes it in a new build
DO $$
DECLARE number bigint;
BEGIN
    FOR number IN SELECT build FROM vector_index.builds LOOP
        EXECUTE format(
            'ALTER TABLE vector_index.chunks_%s ADD COLUMN lexemes tsvector NOT NULL GENERATED ALWAYS AS '
            '(to_tsvector(''english''::regconfig, left(heading || '' '' || text, 100000))) STORED', number);
        EXECUTE format('CREATE INDEX ON vector_index.chunks_%s USING gin (lexemes)', number);
        EXECUTE format(
            'COMMENT ON COLUMN vector_index.chunks_%s.lexemes IS '
            '''The words of heading and text, stemmed in the language of the build.''', number);
    END LOOP;
END $$;

CREATE INDEX revisions_metadata ON vector_index.revisions USING gin (metadata jsonb_path_ops);

ALTER TABLE vector_index.builds ADD COLUMN indexing_until timestamptz;
COMMENT ON COLUMN vector_index.builds.indexing_until IS 'The lease of whoever makes its vector index; by the clock of this server.';
