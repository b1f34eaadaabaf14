-- A document may name its language, which search by words then uses: LANGUAGE_FIELD of an index.

UPDATE vector_index.builds SET recipe = recipe || '{"language_field": null}';

CREATE TABLE vector_index.languages (
    build    bigint NOT NULL REFERENCES vector_index.builds ON DELETE CASCADE,
    language text NOT NULL,
    PRIMARY KEY (build, language)
);
COMMENT ON TABLE vector_index.languages IS 'Languages of documents of a build, other than that of the build; a question is searched in each.';
COMMENT ON COLUMN vector_index.languages.build IS 'Build.';
COMMENT ON COLUMN vector_index.languages.language IS 'Text-search configuration of Postgres, or a code of ISO 639-1 without one.';
