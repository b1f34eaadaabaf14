-- Keep an index in step with a table of the application, in its own transactions.
--
--     psql -f triggers.sql
--
-- as the owner of the table, in the database that the workers use. Put your names in the place of `pages` (the table),
-- `id` (its primary key), `title`, `body`, `author` (what is indexed) and 'default' (the index).

CREATE FUNCTION index_page() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM vector_index.enqueue_delete('default', id) FROM pages;
        RETURN NULL;
    END IF;
    -- the row is gone or has another id; where the same statement gave its id to another row, that one is indexed
    IF TG_OP <> 'INSERT' AND NOT EXISTS (SELECT FROM pages WHERE id = old.id) THEN
        PERFORM vector_index.enqueue_delete('default', old.id);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM vector_index.enqueue_document(
            'default', new.id, coalesce(new.body, ''), new.title, jsonb_build_object('author', new.author));
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER index_page AFTER INSERT OR DELETE ON pages FOR EACH ROW EXECUTE FUNCTION index_page();

-- WHEN and not UPDATE OF: that would miss what another trigger puts into the row
CREATE TRIGGER index_changed_page AFTER UPDATE ON pages FOR EACH ROW
    WHEN ((old.id, old.body, old.title, old.author) IS DISTINCT FROM (new.id, new.body, new.title, new.author))
    EXECUTE FUNCTION index_page();

-- BEFORE: afterwards nobody knows the ids
CREATE TRIGGER index_no_page BEFORE TRUNCATE ON pages FOR EACH STATEMENT EXECUTE FUNCTION index_page();

-- The rows that were there before. Locked, so that no change that commits meanwhile is overtaken by what it replaced.
SELECT count(vector_index.enqueue_document(
    'default', id, coalesce(body, ''), title, jsonb_build_object('author', author)))
FROM (SELECT * FROM pages FOR SHARE) AS pages;
