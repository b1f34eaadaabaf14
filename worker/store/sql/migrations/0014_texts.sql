-- Searches skip a text that thousands of documents share, by an index of texts. New builds have it: ../build.sql.
DO $$
DECLARE number bigint;
BEGIN
    FOR number IN SELECT build FROM vector_index.builds LOOP
        EXECUTE format('CREATE INDEX ON vector_index.chunks_%s (hashtextextended(text, 0))', number);
    END LOOP;
END $$;
