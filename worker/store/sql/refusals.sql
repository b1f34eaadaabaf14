-- Documents that were refused before they were stored.

-- name: record: keep refusals, by id, except those that are older than their document or than another refusal of it
INSERT INTO vector_index.refusals AS r (index_id, id, version, error, task_id)
SELECT %(index_id)s, n.id, n.version, n.error, %(task_id)s
FROM unnest(%(ids)s::text[], %(versions)s::bigint[], %(errors)s::text[]) AS n (id, version, error)
WHERE NOT EXISTS (SELECT FROM vector_index.documents d
    WHERE d.index_id = %(index_id)s AND d.id = n.id AND (d.version > n.version OR d.changed_at >= %(since)s::timestamptz))
ORDER BY n.id
ON CONFLICT (index_id, id) DO UPDATE
SET version = excluded.version, error = excluded.error, task_id = excluded.task_id, refused_at = excluded.refused_at
WHERE (r.version <= excluded.version) IS NOT FALSE

-- name: clear: delete the refusals of documents, unless they have a higher version; by id
DELETE FROM vector_index.refusals r USING (
    SELECT r.id FROM vector_index.refusals r JOIN unnest(%(ids)s::text[], %(versions)s::bigint[]) AS n (id, version) USING (id)
    WHERE r.index_id = %(index_id)s AND (r.version <= n.version) IS NOT FALSE ORDER BY r.id FOR UPDATE OF r
) gone
WHERE r.index_id = %(index_id)s AND r.id = gone.id

-- name: clear_before: delete the refusals of an index that are older than a time
DELETE FROM vector_index.refusals WHERE index_id = %(index_id)s AND refused_at < %(before)s

-- name: delete_expired: delete the refusals of an index that are too old
DELETE FROM vector_index.refusals
WHERE index_id = %(index_id)s AND refused_at < clock_timestamp() - %(days)s * interval '1 day'

-- name: count: number of refused documents of an index
SELECT count(*) FROM vector_index.refusals WHERE index_id = %(index_id)s
