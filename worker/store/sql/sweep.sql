-- The sweep: publish and queue again what a dead worker left behind.

-- name: least_recently_checked: take the pending documents that were checked longest ago
UPDATE {served} SET checked_at = clock_timestamp() WHERE doc IN (
    SELECT doc FROM {served} WHERE want_rev IS NOT NULL AND state = 'pending'
        AND checked_at < clock_timestamp() - %(seconds)s * interval '1 second'
    ORDER BY checked_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING doc

-- name: queue_missing: queue contents that are neither embedded nor pending; there should be none
INSERT INTO {pending} (hash, tokens, priority, visible_at)
SELECT c.hash, min(c.tokens), 0, min(s.since)
FROM {served} s JOIN {chunks} c ON c.rev = s.want_rev
WHERE s.doc = ANY(%(docs)s) AND s.state = 'pending'
    AND NOT EXISTS (SELECT FROM {embeddings} e WHERE e.hash = c.hash)
    AND NOT EXISTS (SELECT FROM {pending} p WHERE p.hash = c.hash)
GROUP BY c.hash ORDER BY c.hash ON CONFLICT DO NOTHING RETURNING hash

-- name: count_repairs: add the repairs of a sweep to the totals of the build
UPDATE vector_index.builds SET swept_published = swept_published + %(published)s, swept_queued = swept_queued + %(queued)s
WHERE build = %(build)s
