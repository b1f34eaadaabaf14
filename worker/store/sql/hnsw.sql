-- The vector index of a build.

-- name: due: enough vectors, and no such index that serves, or that somebody is making
SELECT (SELECT count(*) FROM (SELECT FROM {embeddings} LIMIT %(rows)s) AS counted) = %(rows)s
    AND NOT EXISTS (
        SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
        WHERE i.indrelid = %(table)s::regclass AND a.amname = 'hnsw' AND i.indisvalid)
    AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE relid = %(table)s::regclass)
    AND EXISTS (
        SELECT FROM vector_index.builds
        WHERE build = %(build)s AND coalesce(indexing_until < clock_timestamp(), true))

-- name: claim: the lease, for one of those who ask
UPDATE vector_index.builds SET indexing_until = clock_timestamp() + %(seconds)s * interval '1 second'
WHERE build = %(build)s AND coalesce(indexing_until < clock_timestamp(), true)

-- name: release: the lease
UPDATE vector_index.builds SET indexing_until = NULL WHERE build = %(build)s

-- name: memory: enough for some hundred thousand vectors, unless the server gives more; and no second process, which
-- would need shared memory that containers seldom have
SELECT set_config('max_parallel_maintenance_workers', '0', false),
    set_config('maintenance_work_mem', greatest(setting::bigint, 262144) || 'kB', false)
FROM pg_settings WHERE name = 'maintenance_work_mem'

-- name: drop: what somebody who died or failed left, and IF NOT EXISTS would take for an index
DROP INDEX CONCURRENTLY IF EXISTS {index}

-- name: create: beside readers and writers; not in a transaction
CREATE INDEX CONCURRENTLY {name} ON {embeddings} USING hnsw (embedding {operators})
