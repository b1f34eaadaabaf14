-- The queue of contents that need a vector.

-- Hashes are binary parameters: as text, each of them takes psycopg 3.0 us instead of 0.4, five times from claim to
-- publication.

-- `(SELECT clock_timestamp())` is evaluated once per statement, so that an index scan ends where the leased rows begin.
-- Otherwise each look walks all of them (with 1,000,000 rows in backoff: 300 ms, 4 times a second, in every process).

-- name: count_waiting: number of claimable contents, up to a limit, and the tokens of the largest of them
SELECT count(*), coalesce(max(tokens), 0) FROM (
    SELECT tokens FROM unnest(%(priorities)s::smallint[]) AS of CROSS JOIN LATERAL (
        SELECT tokens FROM {pending} WHERE priority = of AND visible_at <= (SELECT clock_timestamp())
        ORDER BY visible_at LIMIT %(limit)s) AS each
    LIMIT %(limit)s) AS waiting

-- name: claimable: the next claimable contents of one priority, in order
SELECT hash, tokens, attempts, token IS NOT NULL AS abandoned FROM {pending}
WHERE priority = %(priority)s AND visible_at <= (SELECT clock_timestamp())
ORDER BY visible_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED

-- name: drop_embedded: remove claimed contents that another worker has saved meanwhile
DELETE FROM {pending} p WHERE p.hash = ANY(%(hashes)b) AND EXISTS (SELECT FROM {embeddings} e WHERE e.hash = p.hash)
RETURNING p.hash

-- name: lease: lease contents; the attempt counts now, so that a crash counts
UPDATE {pending} SET visible_at = clock_timestamp() + %(seconds)s * interval '1 second', token = %(token)s,
    attempts = attempts + 1
WHERE hash = ANY(%(hashes)b)

-- name: renew: begin the lease of a claim again, for contents that it still holds
UPDATE {pending} SET visible_at = clock_timestamp() + %(seconds)s * interval '1 second'
WHERE hash = ANY(%(hashes)b) AND token = %(token)s

-- name: inputs: the strings of claimed contents
SELECT DISTINCT ON (hash) hash, heading, text FROM {chunks} WHERE hash = ANY(%(hashes)b)

-- name: save_embeddings: insert vectors by hash, without updates, for contents that are still queued; others were saved
-- or deleted meanwhile. Binary arrays are as fast as COPY into a staging table
WITH queued AS (
    SELECT hash FROM {pending} WHERE hash = ANY(%(hashes)b::bytea[]) ORDER BY hash FOR UPDATE
)
INSERT INTO {embeddings} (hash, embedding)
SELECT hash, embedding FROM unnest(%(hashes)b::bytea[], %(embeddings)b::{column}[]) AS n (hash, embedding)
JOIN queued USING (hash) ORDER BY hash ON CONFLICT DO NOTHING

-- name: lock_queued: lock those contents that are queued, by hash
SELECT hash FROM {pending} WHERE hash = ANY(%(hashes)b) ORDER BY hash FOR UPDATE

-- name: supply_embeddings: insert vectors of contents that were queued or that a chunk has, by hash, without updates. A
-- queued one gets its vector in any case: others may rely on its row, which goes
INSERT INTO {embeddings} (hash, embedding)
SELECT hash, embedding FROM unnest(%(hashes)b::bytea[], %(embeddings)b::{column}[]) AS n (hash, embedding)
WHERE hash = ANY(%(queued)b) OR EXISTS (SELECT FROM {chunks} c WHERE c.hash = n.hash) ORDER BY hash ON CONFLICT DO NOTHING

-- name: drop_supplied: remove contents from the queue that got their vectors
DELETE FROM {pending} WHERE hash = ANY(%(queued)b)

-- name: drop_saved: remove saved contents from the queue, by hash
DELETE FROM {pending} WHERE hash IN (
    SELECT hash FROM {pending} WHERE hash = ANY(%(hashes)b) ORDER BY hash FOR UPDATE)

-- name: release: end a claim without a result, for contents that it still holds, by hash
UPDATE {pending} SET visible_at = clock_timestamp() + %(seconds)s * interval '1 second', token = NULL,
    attempts = attempts - %(uncounted)s
WHERE hash IN (
    SELECT hash FROM {pending} WHERE hash = ANY(%(hashes)b) AND token = %(token)s ORDER BY hash FOR UPDATE)

-- name: give_up: remove contents that the claim still holds from the queue, by hash
DELETE FROM {pending} WHERE hash IN (
    SELECT hash FROM {pending} WHERE hash = ANY(%(hashes)b) AND token = %(token)s ORDER BY hash FOR UPDATE)
RETURNING hash, priority

-- name: lock_wanting: lock documents that want one of the contents, by doc
SELECT s.doc FROM {served} s WHERE s.want_rev IN (SELECT rev FROM {chunks} WHERE hash = ANY(%(hashes)b))
ORDER BY s.doc FOR UPDATE

-- name: mark_failed: fail the documents that still want the content; returns their ids
WITH failed AS (
    UPDATE {served} SET state = 'failed', error = %(error)s
    WHERE doc = ANY(%(docs)s) AND want_rev IN (SELECT rev FROM {chunks} WHERE hash = ANY(%(hashes)b)) RETURNING doc)
SELECT id FROM failed JOIN vector_index.documents USING (doc) ORDER BY id

-- name: replace_chunks: replace each large chunk by its pieces in the wanted revisions of locked documents, and
-- renumber the chunks behind it. Pieces keep the language, which its marker tells: they come in each language of the
-- build. The window reads every deleted row before the first insert, so ordinals stay unique
WITH large AS (
    SELECT * FROM unnest(%(hashes)b::bytea[], %(headings)s::text[], %(texts)s::text[], %(sizes)s::int[])
        AS l (hash, heading, text, size)
), gone AS (
    DELETE FROM {chunks} WHERE rev IN (
        SELECT c.rev FROM {served} s JOIN {chunks} c ON c.rev = s.want_rev JOIN large USING (hash, heading, text)
        WHERE s.doc = ANY(%(docs)s))
    RETURNING *
), moved AS (
    SELECT g.*, l.size IS NOT NULL AS is_large, coalesce(sum(l.size - 1) OVER (
        PARTITION BY g.rev ORDER BY g.ordinal ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS added
    FROM gone g LEFT JOIN large l USING (hash, heading, text)
), pieces AS (
    SELECT * FROM unnest(%(of)s::bytea[], %(at)s::int[], %(pieces)s::bytea[], %(starts)s::int[], %(ends)s::int[],
        %(tokens)s::int[], %(piece_headings)s::text[], %(piece_texts)s::text[], %(piece_markers)s::text[],
        %(piece_lexemes)b::tsvector[])
        AS p (of, at, hash, start, "end", tokens, heading, text, marker, lexemes)
)
INSERT INTO {chunks} (rev, ordinal, hash, start, "end", tokens, heading, text, lexemes)
SELECT rev, ordinal + added, hash, start, "end", tokens, heading, text, lexemes FROM moved WHERE NOT is_large
UNION ALL
SELECT m.rev, m.ordinal + m.added + p.at, p.hash, m.start + p.start, m.start + p."end", p.tokens, p.heading, p.text,
    p.lexemes
FROM moved m
LEFT JOIN unnest(%(markers)s::text[]) AS spoken (marker) ON m.lexemes @@ spoken.marker::tsquery
JOIN pieces p ON p.of = m.hash AND p.marker = coalesce(spoken.marker, '')
WHERE m.is_large

-- name: queue_pieces: queue the pieces that documents want and that have no vector, by hash
INSERT INTO {pending} (hash, tokens, priority, visible_at)
SELECT c.hash, min(c.tokens), %(priority)s, min(s.since)
FROM {served} s JOIN {chunks} c ON c.rev = s.want_rev
WHERE s.doc = ANY(%(docs)s) AND c.hash = ANY(%(wanted)s) AND NOT EXISTS (SELECT FROM {embeddings} e WHERE e.hash = c.hash)
GROUP BY c.hash ORDER BY c.hash ON CONFLICT DO NOTHING

-- name: delete_orphans: remove contents from the queue that have no chunk
DELETE FROM {pending} p WHERE p.hash = ANY(%(hashes)b) AND NOT EXISTS (SELECT FROM {chunks} c WHERE c.hash = p.hash)
