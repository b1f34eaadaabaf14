-- The vector index of a build.

-- name: look: count the vectors, up to a bound, and note whether the build grows by more than %(fast)s vectors a second;
-- at most once in %(seconds)s
UPDATE vector_index.builds SET seen_vectors = counted.vectors, seen_at = clock_timestamp(),
    loading_at = CASE
        WHEN counted.vectors - seen_vectors > %(fast)s * extract(epoch FROM clock_timestamp() - seen_at)
        THEN clock_timestamp() ELSE loading_at END
FROM (SELECT count(*) AS vectors FROM (SELECT FROM {embeddings} LIMIT %(most)s) AS bounded) AS counted
WHERE build = %(build)s AND seen_at <= clock_timestamp() - %(seconds)s * interval '1 second'

-- name: state: what the sweep saw last, the pending contents up to a bound, the vector indexes that are valid, those that
-- an interrupted build left, and whether nobody is building one
SELECT b.seen_vectors AS vectors, (SELECT count(*) FROM (SELECT FROM {pending} LIMIT %(most)s) AS bounded) AS pending,
    extract(epoch FROM clock_timestamp() - b.loading_at)::float8 AS calm_seconds,
    ARRAY (SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
        WHERE i.indrelid = %(table)s::regclass AND a.amname = 'hnsw' AND i.indisvalid) AS valid,
    ARRAY (SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = %(table)s::regclass AND NOT i.indisvalid) AS invalid,
    coalesce(b.indexing_until < clock_timestamp(), true)
    AND NOT EXISTS (
        SELECT FROM pg_stat_progress_create_index
        WHERE datname = current_database() AND relid = %(table)s::regclass) AS is_free
FROM vector_index.builds b WHERE b.build = %(build)s

-- name: take_lease: take the lease, unless another worker has it
UPDATE vector_index.builds SET indexing_until = clock_timestamp() + %(seconds)s * interval '1 second'
WHERE build = %(build)s AND coalesce(indexing_until < clock_timestamp(), true)

-- name: release_lease: release the lease
UPDATE vector_index.builds SET indexing_until = NULL WHERE build = %(build)s

-- name: set_memory: raise the memory to what the index needs, up to a quarter of the cache that the server is said to have
SELECT set_config('maintenance_work_mem', greatest(own.setting::bigint, 65536,
    least(%(kilobytes)s, cache.setting::bigint * 8 / 4))::bigint || 'kB', false)
FROM pg_settings own, pg_settings cache
WHERE own.name = 'maintenance_work_mem' AND cache.name = 'effective_cache_size'

-- name: parallel_workers: the number of processes that may help to build an index on this server
SELECT current_setting('max_parallel_maintenance_workers')::int

-- name: let_help: let so many processes help to build an index of the table. Its vectors are in TOAST, so that Postgres
-- takes it for too small
ALTER TABLE {embeddings} SET (parallel_workers = {workers})

-- name: reset_help: plan scans of the table as usual again
ALTER TABLE {embeddings} RESET (parallel_workers)

-- name: drop: drop an index while others read and write; runs outside a transaction
DROP INDEX CONCURRENTLY IF EXISTS {index}

-- name: create_index: create the vector index while others read and write; runs outside a transaction
CREATE INDEX CONCURRENTLY {name} ON {embeddings} USING hnsw (({column}) {operators})
WITH (m = {m}, ef_construction = {ef_construction})

-- name: note_quantised: note whether the vector index has one bit a number, for searches
UPDATE vector_index.builds SET quantised = %(quantised)s WHERE build = %(build)s AND quantised <> %(quantised)s

-- name: describe: the vectors counted last, whether there is a valid vector index, and how much of one is built, from 0
-- to 1; NULL: none is being built
SELECT b.seen_vectors, EXISTS (
        SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
        WHERE i.indrelid = to_regclass(%(table)s) AND a.amname = 'hnsw' AND i.indisvalid) AS is_usable,
    (SELECT max(coalesce(blocks_done::float8 / nullif(blocks_total, 0), 0)) FROM pg_stat_progress_create_index
        WHERE datname = current_database() AND relid = to_regclass(%(table)s)) AS progress
FROM vector_index.builds b WHERE b.build = %(build)s

-- name: is_awaited: whether there are enough vectors and no valid vector index
SELECT (SELECT count(*) FROM (SELECT FROM {embeddings} LIMIT %(rows)s) AS bounded) = %(rows)s
    AND NOT EXISTS (
        SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
        WHERE i.indrelid = %(table)s::regclass AND a.amname = 'hnsw' AND i.indisvalid)

-- name: end_load: note that the load of a build is over, and how many vectors it has
UPDATE vector_index.builds SET loading_at = 'epoch', seen_at = clock_timestamp(),
    seen_vectors = (SELECT count(*) FROM (SELECT FROM {embeddings} LIMIT %(most)s) AS bounded)
WHERE build = %(build)s AND loading_at <> 'epoch'
