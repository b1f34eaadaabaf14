-- Indexes: paused, resumed, dropped.

-- name: paused_at: since when an index is paused; NULL: it is not. No row: there is no index of that name
SELECT paused_at FROM vector_index.indexes WHERE name = %(name)s
