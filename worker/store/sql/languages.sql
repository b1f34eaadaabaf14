-- Languages of documents, by the metadata field that LANGUAGE_FIELD names.

-- name: known: text-search configurations of this server, as `to_tsvector` takes them
SELECT cfgname FROM pg_ts_config WHERE pg_ts_config_is_visible(oid)
UNION SELECT nspname || '.' || cfgname FROM pg_ts_config JOIN pg_namespace n ON n.oid = cfgnamespace

-- name: of_revisions: what revisions name as their language
SELECT rev, metadata #>> %(path)s FROM vector_index.revisions
WHERE rev = ANY(%(revs)s) AND metadata #>> %(path)s IS NOT NULL

-- name: named: what the newest revisions of a build name as their language, with the number of documents
SELECT r.metadata #>> %(path)s AS value, count(*)
FROM {served} s JOIN vector_index.revisions r ON r.rev = coalesce(s.want_rev, s.live_rev)
WHERE r.metadata #>> %(path)s IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1

-- name: note: keep which languages a build has
INSERT INTO vector_index.languages (build, language)
SELECT %(build)s, language FROM unnest(%(languages)s::text[]) AS language ORDER BY language ON CONFLICT DO NOTHING

-- name: noted: the languages of a build
SELECT language FROM vector_index.languages WHERE build = %(build)s ORDER BY language
