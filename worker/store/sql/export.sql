-- An index as it is at one moment, read through cursors of one REPEATABLE READ transaction.

-- name: count: documents and versioned tombstones of an index
SELECT count(*) FILTER (WHERE NOT deleted AND head_rev IS NOT NULL),
    count(*) FILTER (WHERE deleted AND version IS NOT NULL)
FROM vector_index.documents WHERE index_id = %(index_id)s

-- name: revisions: by document, the revision that searches see if it is an older one, then the newest one. The columns of
-- the chunks are NULL if the build has no chunk of the revision
SELECT d.doc, d.id, d.version, r.rev <> d.head_rev AS is_older, r.title, r.metadata, r.text,
    s.doc IS NOT NULL AS is_served, c.starts, c.ends, c.tokens, c.headings, c.hashes
FROM vector_index.documents d LEFT JOIN {served} s USING (doc)
JOIN vector_index.revisions r ON r.doc = d.doc AND r.rev IN (d.head_rev, s.live_rev)
CROSS JOIN LATERAL (
    SELECT array_agg(start) AS starts, array_agg("end") AS ends, array_agg(tokens) AS tokens,
        array_agg(heading) AS headings, array_agg(hash) AS hashes
    FROM (SELECT * FROM {chunks} WHERE rev = r.rev ORDER BY ordinal) AS ordered
) c
WHERE d.index_id = %(index_id)s AND NOT d.deleted ORDER BY d.doc, r.rev

-- name: vectors: each vector once, with the first document that has its content, by document
SELECT f.doc, f.hash, e.embedding FROM (
    SELECT DISTINCT ON (c.hash) c.hash, d.doc
    FROM vector_index.documents d JOIN {served} s USING (doc)
    CROSS JOIN LATERAL (VALUES (d.head_rev), (s.live_rev)) AS r (rev)
    JOIN {chunks} c USING (rev)
    WHERE d.index_id = %(index_id)s AND NOT d.deleted ORDER BY c.hash, d.doc
) f JOIN {embeddings} e USING (hash) ORDER BY f.doc

-- name: tombstones: deleted documents with a version, which fences updates that are older
SELECT id, version FROM vector_index.documents
WHERE index_id = %(index_id)s AND deleted AND version IS NOT NULL ORDER BY doc
