-- Searches. One statement is one snapshot: it follows live_rev and sees whole revisions. {operator} is the distance
-- operator of the build, {vector} the type of its column, {filter} a compiled condition over r.metadata and s.doc,
-- {revisions} the join that the filter needs, empty without a filter, and {new} a condition that leaves out the texts
-- that the caller has already. {candidates}, {per_content}, {rescored} and {most} are numbers: plans that are kept depend on
-- them. hashtextextended(text, 0) tells texts apart, by an index.

-- name: limits: until the transaction ends, limit the time of each statement, and the candidates of the vector index
SELECT set_config('statement_timeout', %(seconds)s || 's', true), set_config('hnsw.ef_search', %(ef_search)s::text, true)

-- name: hits: the chunks of the contents of {found}, at most {per_content} per content and per text, whatever its
-- title; one row without a chunk if there are none. + 0 because {found} may be out of order, and Postgres 17 relies on its
-- ORDER BY. LIMIT 1 keeps plans without statistics from walking all documents
WITH {found}, hits AS (
    SELECT c.*, f.distance, f.rank, row_number() OVER (
        PARTITION BY c.text_key ORDER BY f.rank DESC, f.distance + 0, c.doc, c.ordinal) AS copy
    FROM found f CROSS JOIN LATERAL (
        SELECT s.doc, c.rev, c.ordinal, c.hash, hashtextextended(c.text, 0) AS text_key, {relevance} AS words
        FROM {chunks} c
        CROSS JOIN LATERAL (SELECT doc FROM {served} WHERE live_rev = c.rev LIMIT 1) s {revisions}
        WHERE c.hash = f.hash AND {filter} AND {new}
        ORDER BY s.doc, c.ordinal LIMIT {per_content}
    ) c
)
SELECT {matching} AS matching, (SELECT count(*) FROM found) AS contents,
    h.doc, h.rev, h.ordinal, h.text_key, h.hash, h.distance, {cosine} AS cosine, h.words
FROM (VALUES (1)) AS always LEFT JOIN hits h ON h.copy <= {per_content}
ORDER BY h.rank DESC, h.distance + 0, h.doc, h.ordinal

-- name: nearest: the nearest contents that have a visible chunk, by the vector index if there is one
found AS MATERIALIZED (
    SELECT e.hash, e.embedding {operator} %(query)b::{vector} AS distance, 0.0 AS rank
    FROM {embeddings} e
    WHERE EXISTS (
        SELECT FROM {chunks} c JOIN {served} s ON s.live_rev = c.rev {revisions}
        WHERE c.hash = e.hash AND {filter} AND {new})
    ORDER BY distance LIMIT {candidates}
)

-- name: nearest_quantised: the same by a vector index of one bit a number; the {rescored} best of it are compared again
found AS MATERIALIZED (
    SELECT n.hash, n.embedding {operator} %(query)b::{vector} AS distance, 0.0 AS rank FROM (
        SELECT e.hash, e.embedding FROM {embeddings} e
        WHERE EXISTS (
            SELECT FROM {chunks} c JOIN {served} s ON s.live_rev = c.rev {revisions}
            WHERE c.hash = e.hash AND {filter} AND {new})
        ORDER BY binary_quantize(e.embedding)::bit({dimensions}) <~> binary_quantize(%(query)b::{vector}) LIMIT {rescored}
    ) n
    ORDER BY distance LIMIT {candidates}
)

-- name: exact: the same by comparing every chunk of {chosen}; nothing if it reads more than {most}.
-- MATERIALIZED keeps plans from walking the vector index and filtering its rows; LIMIT 1 keeps them from reading every
-- vector
visible AS MATERIALIZED ({chosen}), distances AS MATERIALIZED (
    SELECT v.hash, e.embedding {operator} %(query)b::{vector} AS distance
    FROM (SELECT DISTINCT hash FROM visible WHERE fits AND (SELECT count(*) FROM visible) <= {most}) v
    CROSS JOIN LATERAL (SELECT embedding FROM {embeddings} WHERE hash = v.hash LIMIT 1) e
), found AS MATERIALIZED (
    SELECT hash, distance, 0.0 AS rank FROM distances ORDER BY distance, hash LIMIT {candidates}
)

-- name: chosen_by_filter: chunks of documents that pass the filter, and whether their text is new
SELECT c.hash, {new} AS fits FROM {served} s JOIN {chunks} c ON c.rev = s.live_rev {revisions}
WHERE {filter} LIMIT {most} + 1

-- name: chosen_by_text: chunks of new texts, which the index of texts has between those of %(texts)s, and whether their
-- document passes the filter. Each LIMIT keeps it from reading more than the bound; the last keeps plans from reading
-- every document
SELECT c.hash, v.fits FROM (
    SELECT n.rev, n.hash FROM unnest(%(after)s::bigint[], %(before)s::bigint[]) AS gap (after, before)
    CROSS JOIN LATERAL (
        SELECT rev, hash FROM {chunks}
        WHERE hashtextextended(text, 0) BETWEEN gap.after AND gap.before LIMIT {most} + 1
    ) n LIMIT {most} + 1
) c
LEFT JOIN LATERAL (
    SELECT true AS fits FROM {served} s {revisions} WHERE s.live_rev = c.rev AND {filter} LIMIT 1
) v ON true

-- name: lexical: the contents of visible chunks with the highest {relevance}, each with its {distance} to the question, of
-- the first {most} chunks that have a word. LIMIT 1 keeps plans from reading every document
visible AS MATERIALIZED (
    SELECT c.hash, {relevance} AS relevance, ARRAY[s.doc, c.ordinal] AS place
    FROM {chunks} c
    CROSS JOIN LATERAL (SELECT doc FROM {served} WHERE live_rev = c.rev LIMIT 1) s {revisions}
    WHERE c.lexemes @@ %(lexemes)s::tsquery AND {filter} AND {new} LIMIT {most}
), found AS MATERIALIZED (
    SELECT m.hash, m.rank, {distance} AS distance FROM (
        SELECT hash, max(relevance) AS rank FROM visible
        GROUP BY hash ORDER BY rank DESC, min(place) LIMIT {candidates}
    ) m JOIN {embeddings} e USING (hash)
)

-- name: relevance: the sum of {terms} for a chunk; OFFSET keeps Postgres from counting its words once per term
(SELECT {terms} FROM (
    SELECT 0.25 + 0.75 * length(ts_filter(c.lexemes, '{{d}}')) / %(average)s::float8 AS share OFFSET 0
) AS size)

-- name: term: what one word adds to the relevance of a chunk; a part of an identifier, with the label B, counts half.
-- ts_rank is the costly part, so it is called once
coalesce({weight}::float8 / (
    1 + 1.2 * size.share * 1.55 * (1 / nullif(ts_rank('{{1,1,0.5,1}}', c.lexemes, {word}::tsquery), 0)::float8 - 1)), 0)

-- name: cosine: of the angle between the vector of a hit and the question's
1 - (SELECT embedding <=> %(query)b::{vector} FROM {embeddings} WHERE hash = h.hash)

-- name: lexemes: lexemes of a question in each language, in order, and an empty one for the marker of each language with a
-- tag; the number of chunks, estimated from the size of the table; and what changes when Postgres counts words anew
WITH asked AS (
    SELECT * FROM unnest(%(configurations)s::text[], %(tags)s::text[]) AS asked (configuration, tag)
), found AS (
    SELECT tag, lexeme, place FROM asked CROSS JOIN LATERAL (
        SELECT lexeme, positions[1] AS place FROM unnest(to_tsvector(configuration::regconfig, %(text)s))
        ORDER BY place, lexeme LIMIT %(lexemes)s
    ) AS of_question
    UNION ALL SELECT tag, '', 0 FROM asked WHERE tag <> ''
)
-- a table that is dropped just now has no size: the next statement finds that out
SELECT tag, lexeme,
    reltuples / greatest(relpages, 1) * (coalesce(pg_relation_size(oid), 0) / current_setting('block_size')::int),
    ARRAY[reltuples, relpages, pg_stat_get_analyze_count(oid), pg_stat_get_autoanalyze_count(oid)]
FROM found, pg_class WHERE oid = '{chunks}'::regclass ORDER BY tag, place, lexeme

-- name: common_words: the commonest lexemes of chunks, each with the share of chunks that have it; no row without statistics
SELECT most_common_elems::text::text[], most_common_elem_freqs FROM pg_stats
WHERE schemaname = 'vector_index' AND tablename = %(table)s AND attname = 'lexemes'

-- name: frequencies: number of chunks with each lexeme, up to a bound
SELECT w.lexeme, counted.chunks FROM unnest(%(lexemes)s::text[]) AS w (lexeme) CROSS JOIN LATERAL (
    SELECT count(*) AS chunks FROM (SELECT FROM {chunks} WHERE lexemes @@ w.lexeme::tsquery LIMIT %(most)s) AS bounded
) AS counted

-- name: size: number of chunks, up to a bound
SELECT count(*) FROM (SELECT FROM {chunks} LIMIT %(most)s) AS bounded

-- name: word_shares: what each word of a question adds to the relevance of chunks, as {shares}
SELECT c.rev, c.ordinal, {shares}
FROM unnest(%(revs)s::bigint[], %(ordinals)s::int[]) AS n (rev, ordinal) JOIN {chunks} c USING (rev, ordinal)

-- name: chunks: chunks, given as (rev, ordinal), with their documents. LIMIT 1 keeps plans from scanning the tables
SELECT c.rev, c.ordinal, c.start, c."end", c.text, d.id AS document_id, r.title, r.metadata
FROM unnest(%(revs)s::bigint[], %(ordinals)s::int[]) AS n (rev, ordinal)
CROSS JOIN LATERAL (SELECT * FROM {chunks} WHERE rev = n.rev AND ordinal = n.ordinal LIMIT 1) c
CROSS JOIN LATERAL (SELECT * FROM vector_index.revisions WHERE rev = n.rev LIMIT 1) r
CROSS JOIN LATERAL (SELECT id FROM vector_index.documents WHERE doc = r.doc LIMIT 1) d

-- name: metadata: of documents, given by their revisions
SELECT n.rev, r.metadata FROM unnest(%(revs)s::bigint[]) AS n (rev)
CROSS JOIN LATERAL (SELECT metadata FROM vector_index.revisions WHERE rev = n.rev LIMIT 1) r

-- name: spans: texts between two positions of revisions
SELECT n.rev, n.start, substr(r.text, n.start + 1, n."end" - n.start)
FROM unnest(%(revs)s::bigint[], %(starts)s::int[], %(ends)s::int[]) AS n (rev, start, "end")
JOIN vector_index.revisions r USING (rev)

-- name: neighbours: the text of chunks %(firsts)s to %(lasts)s of revisions with %(reach)s chunks before and after them
SELECT n.rev, n.first, min(c.start), substr(min(r.text), min(c.start) + 1, max(c."end") - min(c.start))
FROM unnest(%(revs)s::bigint[], %(firsts)s::int[], %(lasts)s::int[]) AS n (rev, first, last)
JOIN vector_index.revisions r USING (rev)
JOIN {chunks} c ON c.rev = n.rev AND c.ordinal BETWEEN n.first - %(reach)s AND n.last + %(reach)s
GROUP BY n.rev, n.first

-- name: reference_document: a document that has a live or a wanted revision and passes the tenant's filter, and the
-- mean of its visible vectors; NULL if it has none
SELECT d.doc, avg(e.embedding) AS embedding
FROM vector_index.documents d JOIN {served} s USING (doc)
JOIN vector_index.revisions r ON r.rev = coalesce(s.live_rev, s.want_rev)
LEFT JOIN {chunks} c ON c.rev = s.live_rev LEFT JOIN {embeddings} e USING (hash)
WHERE d.index_id = %(index_id)s AND d.id = %(id)s AND {filter} GROUP BY d.doc
