-- Readers. One statement is one snapshot: readers follow live_rev and see whole revisions.
-- {operator} is the build's distance, {vector} its column type, {filter} a compiled condition over r.metadata.

-- name: nearest: the nearest contents that a visible chunk has, and the chunks that have them
WITH nearest AS MATERIALIZED (
    SELECT e.hash, e.embedding {operator} %(query)b::{vector} AS distance
    FROM {embeddings} e
    WHERE EXISTS (
        SELECT FROM {chunks} c JOIN {served} s ON s.live_rev = c.rev
        JOIN vector_index.revisions r ON r.rev = c.rev
        WHERE c.hash = e.hash AND {filter})
    ORDER BY distance LIMIT %(candidates)s
)
SELECT d.id AS document_id, r.title, r.metadata, c.text, c.start, c."end", c.ordinal, c.hash, n.distance
FROM nearest n
CROSS JOIN LATERAL (
    SELECT c.* , s.doc FROM {chunks} c JOIN {served} s ON s.live_rev = c.rev
    JOIN vector_index.revisions r ON r.rev = c.rev
    WHERE c.hash = n.hash AND {filter}
    ORDER BY s.doc, c.ordinal LIMIT %(per_content)s
) c
JOIN vector_index.documents d ON d.doc = c.doc
JOIN vector_index.revisions r ON r.rev = c.rev
ORDER BY n.distance, c.doc, c.ordinal

-- name: asked: a document that has a live revision or waits for one, if it passes the tenant's filter, and the mean of
-- the vectors of what readers see of it; NULL without any
SELECT d.doc, avg(e.embedding) AS embedding
FROM vector_index.documents d JOIN {served} s USING (doc)
JOIN vector_index.revisions r ON r.rev = coalesce(s.live_rev, s.want_rev)
LEFT JOIN {chunks} c ON c.rev = s.live_rev LEFT JOIN {embeddings} e USING (hash)
WHERE d.index_id = %(index_id)s AND d.id = %(id)s AND {filter} GROUP BY d.doc

-- name: matching: documents whose newest revision passes a filter, and that revision
SELECT d.id, d.head_rev FROM vector_index.documents d JOIN vector_index.revisions r ON r.rev = d.head_rev
WHERE d.index_id = %(index_id)s AND d.id > %(after)s AND {filter} ORDER BY d.id LIMIT %(limit)s
