-- The vector index of a build.

-- name: state: whether there are enough vectors and no valid vector index, the invalid indexes that an interrupted build
-- left, and whether nobody is building one
SELECT (SELECT count(*) FROM (SELECT FROM {embeddings} LIMIT %(rows)s) AS counted) = %(rows)s
    AND NOT EXISTS (
        SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
        WHERE i.indrelid = %(table)s::regclass AND a.amname = 'hnsw' AND i.indisvalid) AS wanted,
    ARRAY (SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = %(table)s::regclass AND NOT i.indisvalid) AS leftovers,
    NOT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE relid = %(table)s::regclass)
    AND EXISTS (
        SELECT FROM vector_index.builds
        WHERE build = %(build)s AND coalesce(indexing_until < clock_timestamp(), true)) AS is_free

-- name: take_lease: take the lease, unless another worker has it
UPDATE vector_index.builds SET indexing_until = clock_timestamp() + %(seconds)s * interval '1 second'
WHERE build = %(build)s AND coalesce(indexing_until < clock_timestamp(), true)

-- name: release_lease: release the lease
UPDATE vector_index.builds SET indexing_until = NULL WHERE build = %(build)s

-- name: set_memory: raise the memory to what some hundred thousand vectors need, unless the server has more. No
-- parallel worker, which would need shared memory that containers seldom have
SELECT set_config('max_parallel_maintenance_workers', '0', false),
    set_config('maintenance_work_mem', greatest(setting::bigint, 262144) || 'kB', false)
FROM pg_settings WHERE name = 'maintenance_work_mem'

-- name: drop: drop what an interrupted build left, while others read and write; runs outside a transaction
DROP INDEX CONCURRENTLY IF EXISTS {index}

-- name: create_index: create the vector index while others read and write; runs outside a transaction
CREATE INDEX CONCURRENTLY {name} ON {embeddings} USING hnsw (embedding {operators})
