-- Words of existing chunks, spelled again as this release spells them.

-- name: misread: words that a text search configuration drops, or parts into several
SELECT word FROM unnest(%(words)s::text[]) AS word WHERE length(to_tsvector(%(language)s::regconfig, word)) <> 1

-- name: place: the chunk after which spelling continues; no row if all chunks have the words of this release
SELECT spelled_rev, spelled_ordinal FROM vector_index.builds WHERE build = %(build)s AND spelling < %(spelling)s

-- name: next: the next chunks to spell, in order
SELECT rev, ordinal, heading, text FROM {chunks} WHERE (rev, ordinal) > (%(rev)s, %(ordinal)s)
ORDER BY rev, ordinal LIMIT %(chunks)s

-- name: spell: replace the lexemes of chunks that exist, where they differ
UPDATE {chunks} c SET lexemes = n.lexemes
FROM unnest(%(revs)b::bigint[], %(ordinals)b::int[], %(lexemes)b::tsvector[]) AS n (rev, ordinal, lexemes)
WHERE c.rev = n.rev AND c.ordinal = n.ordinal AND c.lexemes <> n.lexemes

-- name: move: note how far spelling has come, unless another worker has moved it meanwhile
UPDATE vector_index.builds SET spelled_rev = %(to_rev)s, spelled_ordinal = %(to_ordinal)s
WHERE build = %(build)s AND (spelled_rev, spelled_ordinal) = (%(rev)s, %(ordinal)s)

-- name: finish: note that all chunks have the words of this release
UPDATE vector_index.builds SET spelling = %(spelling)s, spelled_rev = 0, spelled_ordinal = 0
WHERE build = %(build)s AND (spelled_rev, spelled_ordinal) = (%(rev)s, %(ordinal)s)
