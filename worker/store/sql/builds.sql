-- Indexes and builds.

-- name: lock_shared: held by whoever relies on a hash
SELECT pg_advisory_xact_lock_shared(%(namespace)s, %(index_id)s)

-- name: lock_exclusive: held by whoever takes a hash away, and by whoever changes the list of builds
SELECT pg_advisory_xact_lock(%(namespace)s, %(index_id)s)

-- name: find_index: the row of an index
SELECT index_id, live_build FROM vector_index.indexes WHERE name = %(name)s

-- name: is_there: unless it was dropped
SELECT FROM vector_index.indexes WHERE index_id = %(index_id)s AND dropped_at IS NULL

-- name: create_index: a new row; nothing when it stands already
INSERT INTO vector_index.indexes (name) VALUES (%(name)s) ON CONFLICT DO NOTHING

-- name: writable: builds that staging must write, of one index
SELECT build, index_id, name AS index, state, recipe FROM vector_index.builds JOIN vector_index.indexes USING (index_id)
WHERE index_id = %(index_id)s AND state IN ('filling', 'closing', 'live') ORDER BY build

-- name: all_writable: every build that is being written, of every index
SELECT build, index_id, name AS index, state, recipe FROM vector_index.builds JOIN vector_index.indexes USING (index_id)
WHERE state IN ('filling', 'closing', 'live') ORDER BY build

-- name: active: likewise, but of indexes that are not paused
SELECT build, index_id, name AS index, state, recipe FROM vector_index.builds JOIN vector_index.indexes USING (index_id)
WHERE state IN ('filling', 'closing', 'live') AND paused_at IS NULL ORDER BY build

-- name: live: the build that readers of an index see
SELECT b.build, b.index_id, i.name AS index, b.state, b.recipe
FROM vector_index.indexes i JOIN vector_index.builds b ON b.build = i.live_build
WHERE i.name = %(name)s

-- name: all_builds: every build of one index, retired ones too
SELECT build, index_id, name AS index, state, recipe FROM vector_index.builds JOIN vector_index.indexes USING (index_id)
WHERE index_id = %(index_id)s ORDER BY build

-- name: insert_build: a new build
INSERT INTO vector_index.builds (index_id, recipe, state) VALUES (%(index_id)s, %(recipe)s, %(state)s) RETURNING build

-- name: serve: point readers at a build
UPDATE vector_index.indexes SET live_build = %(build)s WHERE index_id = %(index_id)s

-- name: note_error: remember what the embedding backend of a build said last
UPDATE vector_index.builds SET error = %(error)s, error_at = clock_timestamp() WHERE build = %(build)s

-- name: clear_error: forget it, once a request has succeeded
UPDATE vector_index.builds SET error = NULL, error_at = NULL WHERE build = %(build)s AND error IS NOT NULL
