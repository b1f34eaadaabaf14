-- Indexes and their builds. {donor_embeddings} are the vectors of another build, {vector} the type of those of this one.

-- name: lock_shared: take the index lock shared, before relying on a stored vector or a queued content. Plans for rows by
-- key are kept, so they must not scan the tables that are empty now
SELECT pg_advisory_xact_lock_shared(%(namespace)s, %(index_id)s), set_config('enable_seqscan', 'off', true),
    set_config('max_parallel_workers_per_gather', '0', true)

-- name: lock_exclusive: take the index lock exclusively, before removing vectors or queued contents or changing the
-- list of builds
SELECT pg_advisory_xact_lock(%(namespace)s, %(index_id)s)

-- name: lock_publishing: keep the states of the builds as they are while a document is published; see `lock_shared`
SELECT pg_advisory_xact_lock_shared(%(namespace)s, %(index_id)s), set_config('enable_seqscan', 'off', true),
    set_config('max_parallel_workers_per_gather', '0', true)

-- name: lock_states: wait until nothing is being published, before the state of a build changes
SELECT pg_advisory_xact_lock(%(namespace)s, %(index_id)s)

-- name: find_index: key and live build of an index
SELECT index_id, live_build FROM vector_index.indexes WHERE name = %(name)s

-- name: exists: return a row unless the index was dropped
SELECT FROM vector_index.indexes WHERE index_id = %(index_id)s AND dropped_at IS NULL

-- name: create_index: insert an index; does nothing if it exists
INSERT INTO vector_index.indexes (name) VALUES (%(name)s) ON CONFLICT DO NOTHING

-- name: set_index_error: keep why an index has no build yet
UPDATE vector_index.indexes SET error = %(error)s WHERE name = %(name)s AND live_build IS NULL

-- name: index_error: why an index has no build yet
SELECT error FROM vector_index.indexes WHERE name = %(name)s

-- name: writable: builds of one index that staging writes to
SELECT build, index_id, name AS index, state, recipe FROM vector_index.builds JOIN vector_index.indexes USING (index_id)
WHERE index_id = %(index_id)s AND state IN ('filling', 'closing', 'live') ORDER BY build

-- name: all_writable: builds that are being written, of every index
SELECT build, index_id, name AS index, state, recipe FROM vector_index.builds JOIN vector_index.indexes USING (index_id)
WHERE state IN ('filling', 'closing', 'live') ORDER BY build

-- name: active: builds that are being written, of every index that is not paused
SELECT build, index_id, name AS index, state, recipe FROM vector_index.builds JOIN vector_index.indexes USING (index_id)
WHERE state IN ('filling', 'closing', 'live') AND paused_at IS NULL ORDER BY build

-- name: live: the build that searches of an index read, and whether it has a vector index
SELECT b.build, b.index_id, i.name AS index, b.state, b.recipe, b.quantised,
    EXISTS (SELECT FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_am a ON a.oid = c.relam
        WHERE x.indrelid = to_regclass('vector_index.embeddings_' || b.build) AND a.amname = 'hnsw' AND x.indisvalid
    ) AS is_indexed,
    ARRAY(SELECT language FROM vector_index.languages l WHERE l.build = b.build ORDER BY language) AS languages
FROM vector_index.indexes i JOIN vector_index.builds b ON b.build = i.live_build
WHERE i.name = %(name)s

-- name: all_builds: every build of one index, including retired ones
SELECT build, index_id, name AS index, state, recipe FROM vector_index.builds JOIN vector_index.indexes USING (index_id)
WHERE index_id = %(index_id)s ORDER BY build

-- name: insert_build: insert a build
INSERT INTO vector_index.builds (index_id, recipe, state, spelling)
VALUES (%(index_id)s, %(recipe)s, %(state)s, %(spelling)s) RETURNING build

-- name: check_language: fail unless this is a text search configuration
SELECT %(language)s::regconfig

-- name: set_live_build: point searches at a build
UPDATE vector_index.indexes SET live_build = %(build)s, error = NULL WHERE index_id = %(index_id)s

-- name: set_error: keep the last error of the embedding backend of a build
UPDATE vector_index.builds SET error = %(error)s, error_at = clock_timestamp() WHERE build = %(build)s

-- name: clear_error: clear that error after a successful request
UPDATE vector_index.builds SET error = NULL, error_at = NULL WHERE build = %(build)s AND error IS NOT NULL

-- name: remember_backend: keep the settings of the backend that makes the vectors of a build, if they changed
UPDATE vector_index.builds SET backend = %(backend)s WHERE build = %(build)s AND backend IS DISTINCT FROM %(backend)s

-- name: note_drift: keep the differences between the recipe of a build and the settings, if they changed
UPDATE vector_index.builds SET drift = %(drift)s WHERE build = %(build)s AND drift IS DISTINCT FROM %(drift)s

-- name: drift: differences between the live builds of these indexes and the settings
SELECT i.name, b.drift FROM vector_index.indexes i JOIN vector_index.builds b ON b.build = i.live_build
WHERE i.name = ANY(%(names)s) AND b.drift <> '[]' ORDER BY i.name

-- name: remembered_backend: the settings of the backend that made the vectors of a build
SELECT backend FROM vector_index.builds WHERE build = %(build)s

-- name: copy_vectors: copy the vectors of contents that another build of the same model has, by hash
INSERT INTO {embeddings} (hash, embedding)
SELECT d.hash, d.embedding::{vector} FROM {donor_embeddings} d WHERE d.hash = ANY(%(hashes)b)
ORDER BY d.hash ON CONFLICT DO NOTHING

-- name: lock_timeout: how long a statement waits for a lock
SELECT current_setting('lock_timeout')

-- name: set_lock_timeout: the same from now on, until the end of the transaction
SELECT set_config('lock_timeout', %(limit)s, true)

-- name: drop_tables: drop the tables of a build; waits for searches that read them
DROP TABLE {served}, {chunks}, {embeddings}, {pending}
