-- A sample of an index under two recipes: builds in temporary tables, which no search of an application reads.
-- {live_served}, {live_chunks} and {live_embeddings} are tables of the live build.

-- name: searchable: those ids that searches find
SELECT d.id FROM vector_index.documents d JOIN {served} s USING (doc)
WHERE d.index_id = %(index_id)s AND d.id = ANY(%(ids)s) AND NOT d.deleted AND s.live_rev IS NOT NULL

-- name: totals: the number of searchable documents, and the bytes of their texts
SELECT count(*), coalesce(sum(octet_length(r.text)), 0)::bigint
FROM {served} s JOIN vector_index.revisions r ON r.rev = s.live_rev

-- name: choose: documents of a sample: the given ones, then others in an order that depends on their ids and the seed alone
SELECT s.doc, s.live_rev, octet_length(r.text)
FROM {served} s JOIN vector_index.documents d USING (doc) JOIN vector_index.revisions r ON r.rev = s.live_rev
WHERE NOT d.deleted ORDER BY (d.id = ANY(%(ids)s)) DESC, hashtextextended(d.id, %(seed)s), d.doc LIMIT %(limit)s

-- name: pieces: some chunks of each of these searchable documents, the same ones for a seed, with ids and titles
SELECT d.id, r.title, c.heading, c.text
FROM unnest(%(docs)s::bigint[]) WITH ORDINALITY AS chosen (doc, at)
JOIN {served} s USING (doc) JOIN vector_index.documents d USING (doc) JOIN vector_index.revisions r ON r.rev = s.live_rev
CROSS JOIN LATERAL (
    SELECT heading, text, hashint8extended(ordinal, %(seed)s) AS place FROM {chunks}
    WHERE rev = s.live_rev ORDER BY place LIMIT %(each)s
) c
ORDER BY chosen.at, c.place

-- name: embedded: those contents that have a vector
SELECT hash FROM {embeddings} WHERE hash = ANY(%(hashes)b)

-- name: copy: copy revisions that searches read from the live build, with their chunks and vectors; their documents. One
-- statement is one snapshot: a revision that was replaced meanwhile is left out
WITH served AS (
    INSERT INTO {served} (doc, live_rev, state, since)
    SELECT doc, live_rev, 'live', since FROM {live_served} WHERE live_rev = ANY(%(revs)s) RETURNING doc, live_rev
), chunks AS (
    INSERT INTO {chunks} SELECT * FROM {live_chunks} WHERE rev IN (SELECT live_rev FROM served) RETURNING hash
), embeddings AS (
    INSERT INTO {embeddings} SELECT hash, embedding FROM {live_embeddings} WHERE hash IN (SELECT hash FROM chunks)
    ON CONFLICT DO NOTHING
)
SELECT doc FROM served
