-- What the planner knows about the tables of a build.

-- name: analyze: analyze the tables that searches read
ANALYZE {served}, {chunks}, {embeddings}

-- name: analyze_unlocked: the same, without waiting for a table whose index is being built
ANALYZE (SKIP_LOCKED) {served}, {chunks}, {embeddings}

-- name: is_stale: whether a table has rows and was never analyzed, or more rows have changed since than it had
SELECT EXISTS (
    SELECT FROM pg_class c JOIN unnest(%(tables)s::text[]) AS named (name) ON c.oid = named.name::regclass
    WHERE pg_relation_size(c.oid) > 0 AND (
        coalesce(pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid)) IS NULL
        OR pg_stat_get_mod_since_analyze(c.oid) > greatest(c.reltuples, %(few)s)))
