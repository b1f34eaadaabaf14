-- Words and their lexemes.

-- name: is_by_word: whether a text-search configuration reads each word by itself. Other parsers may cut texts where they
-- like, and a thesaurus replaces phrases
SELECT (SELECT prsname = 'default' FROM pg_ts_config c JOIN pg_ts_parser p ON p.oid = c.cfgparser WHERE c.oid = config)
    AND NOT EXISTS (
        SELECT FROM pg_ts_config_map m JOIN pg_ts_dict d ON d.oid = m.mapdict JOIN pg_ts_template t ON t.oid = d.dicttemplate
        WHERE m.mapcfg = config AND t.tmplname <> ALL (ARRAY['simple', 'synonym', 'ispell', 'snowball', 'unaccent']))
FROM CAST(%(configuration)s AS regconfig) AS config

-- name: of_words: the lexemes of words between spaces under a text-search configuration, as one text: words in their
-- order, each with its lexemes after a separator. Rows of arrays take three times as long to read
SELECT string_agg(array_to_string(tsvector_to_array(to_tsvector(%(configuration)s::regconfig, word)), E'\x1f'), E'\x1e'
    ORDER BY at)
FROM string_to_table(%(words)s, ' ') WITH ORDINALITY AS w (word, at)

-- name: of_texts: the lexemes of each text under a text-search configuration, each as often as the text has it
SELECT text, ARRAY(
    SELECT lexeme FROM unnest(to_tsvector(%(configuration)s::regconfig, text)) AS l (lexeme, places, weights), unnest(places)
) FROM unnest(%(texts)s::text[]) AS text
