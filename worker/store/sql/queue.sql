-- The queue of contents that need a vector.

-- name: count_waiting: contents that nobody holds, as far as `limit`
SELECT count(*) FROM (SELECT FROM {pending} WHERE visible_at <= clock_timestamp() LIMIT %(limit)s) AS waiting

-- name: claimable: the next contents of one priority, in order, that nobody holds
SELECT hash, tokens, attempts FROM {pending}
WHERE priority = %(priority)s AND visible_at <= clock_timestamp()
ORDER BY visible_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED

-- name: drop_embedded: claimed contents that somebody else has saved meanwhile
DELETE FROM {pending} p WHERE p.hash = ANY(%(hashes)s) AND EXISTS (SELECT FROM {embeddings} e WHERE e.hash = p.hash)
RETURNING p.hash

-- name: lease: hold the rest; the attempt counts now, so that a crash counts
UPDATE {pending} SET visible_at = clock_timestamp() + %(seconds)s * interval '1 second', token = %(token)s,
    attempts = attempts + 1
WHERE hash = ANY(%(hashes)s)

-- name: inputs: the strings behind the claimed contents
SELECT DISTINCT ON (hash) hash, heading, text FROM {chunks} WHERE hash = ANY(%(hashes)s)

-- name: save_embeddings: vectors by hash, never updated; arrays in binary are as fast as COPY into a staging table
INSERT INTO {embeddings} (hash, embedding)
SELECT * FROM unnest(%(hashes)b::bytea[], %(embeddings)b::{column}[]) ON CONFLICT DO NOTHING

-- name: drop_saved: no longer pending, by hash
DELETE FROM {pending} WHERE hash IN (
    SELECT hash FROM {pending} WHERE hash = ANY(%(hashes)s) ORDER BY hash FOR UPDATE)

-- name: give_back: a claim ends without a result; only what it still holds, by hash
UPDATE {pending} SET visible_at = clock_timestamp() + %(seconds)s * interval '1 second', token = NULL,
    attempts = attempts - %(uncounted)s
WHERE hash IN (
    SELECT hash FROM {pending} WHERE hash = ANY(%(hashes)s) AND token = %(token)s ORDER BY hash FOR UPDATE)

-- name: fail_pending: the content is given up, if the claim still holds it
DELETE FROM {pending} WHERE hash = %(hash)s AND token = %(token)s RETURNING hash

-- name: lock_wanting: documents that want the content, by doc
SELECT s.doc FROM {served} s WHERE s.want_rev IN (SELECT rev FROM {chunks} WHERE hash = %(hash)s) ORDER BY s.doc FOR UPDATE

-- name: mark_failed: those that still want it
UPDATE {served} SET state = 'failed', error = %(error)s
WHERE doc = ANY(%(docs)s) AND want_rev IN (SELECT rev FROM {chunks} WHERE hash = %(hash)s) RETURNING doc

-- name: forget: contents that no chunk has any more
DELETE FROM {pending} p WHERE p.hash = ANY(%(hashes)s) AND NOT EXISTS (SELECT FROM {chunks} c WHERE c.hash = p.hash)
