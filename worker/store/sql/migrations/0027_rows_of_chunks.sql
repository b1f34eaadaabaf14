-- New chunks stay in their rows without compression, as in new builds: ../build.sql. Those that exist stay as they are.
DO $$
DECLARE number bigint;
BEGIN
    FOR number IN SELECT build FROM vector_index.builds LOOP
        EXECUTE format('ALTER TABLE vector_index.chunks_%s SET (toast_tuple_target = 4080)', number);
    END LOOP;
END $$;
