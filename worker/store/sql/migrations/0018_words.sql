-- Lexemes come from words that the workers spell, and no longer from the text as the server reads it. The chunks that
-- exist keep their lexemes until a sweep spells them again: worker/store/spelling.py. New builds: ../build.sql.

ALTER TABLE vector_index.builds ADD COLUMN spelling smallint NOT NULL DEFAULT 0;
ALTER TABLE vector_index.builds ADD COLUMN spelled_rev bigint NOT NULL DEFAULT 0;
ALTER TABLE vector_index.builds ADD COLUMN spelled_ordinal integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN vector_index.builds.spelling IS 'Version of the words that all of its chunks have at least.';
COMMENT ON COLUMN vector_index.builds.spelled_rev IS 'Revision of the last chunk that was spelled again; 0: none.';
COMMENT ON COLUMN vector_index.builds.spelled_ordinal IS 'Position of that chunk in its revision.';

DO $$
DECLARE number bigint;
BEGIN
    FOR number IN SELECT build FROM vector_index.builds LOOP
        EXECUTE format('ALTER TABLE vector_index.chunks_%s ALTER COLUMN lexemes DROP EXPRESSION IF EXISTS', number);
    END LOOP;
END $$;
