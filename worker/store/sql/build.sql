-- The tables of one build. {vector} is vector(n) or halfvec(n), {language} a text search configuration; the other names
-- carry the build's number.
-- pending and served change all the time: small pages left free and an eager vacuum keep them short.

CREATE TABLE {chunks} (
    rev     bigint NOT NULL,
    ordinal integer NOT NULL,
    hash    bytea NOT NULL,
    start   integer NOT NULL,
    "end"   integer NOT NULL,
    tokens  integer NOT NULL,
    heading text NOT NULL,
    text    text NOT NULL,
    -- cut, as a tsvector takes no more than 1 MB: 100,000 characters never come to more
    lexemes tsvector NOT NULL GENERATED ALWAYS AS
        (to_tsvector({language}::regconfig, left(heading || ' ' || text, 100000))) STORED,
    PRIMARY KEY (rev, ordinal)
);
CREATE INDEX ON {chunks} (hash);
CREATE INDEX ON {chunks} USING gin (lexemes);
COMMENT ON TABLE {chunks} IS 'The chunks of every revision that this build serves or is about to serve.';
COMMENT ON COLUMN {chunks}.rev IS 'The revision.';
COMMENT ON COLUMN {chunks}.ordinal IS 'Place among the chunks of the revision, from 0.';
COMMENT ON COLUMN {chunks}.hash IS 'BLAKE2b of exactly the string that is embedded.';
COMMENT ON COLUMN {chunks}.start IS 'First code point of the text.';
COMMENT ON COLUMN {chunks}."end" IS 'Code point after the last.';
COMMENT ON COLUMN {chunks}.tokens IS 'Tokens of the string that is embedded.';
COMMENT ON COLUMN {chunks}.heading IS 'What is embedded in front of the text: title, important fields and the headings above.';
COMMENT ON COLUMN {chunks}.text IS 'The text between start and end.';
COMMENT ON COLUMN {chunks}.lexemes IS 'The words of heading and text, stemmed in the language of the build.';

CREATE TABLE {embeddings} (
    hash      bytea PRIMARY KEY,
    embedding {vector} NOT NULL
);
COMMENT ON TABLE {embeddings} IS 'One vector per distinct content, never updated.';
COMMENT ON COLUMN {embeddings}.hash IS 'BLAKE2b of the string that was embedded.';
COMMENT ON COLUMN {embeddings}.embedding IS 'Its vector.';

CREATE TABLE {pending} (
    hash       bytea PRIMARY KEY,
    tokens     integer NOT NULL,
    priority   smallint NOT NULL DEFAULT 0,
    visible_at timestamptz NOT NULL,
    token      uuid,
    attempts   smallint NOT NULL DEFAULT 0
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);
CREATE INDEX ON {pending} (priority, visible_at);
COMMENT ON TABLE {pending} IS 'Contents that still need a vector: the queue.';
COMMENT ON COLUMN {pending}.hash IS 'BLAKE2b of the string to embed; the string is rebuilt from a chunk that has it.';
COMMENT ON COLUMN {pending}.tokens IS 'Tokens of that string.';
COMMENT ON COLUMN {pending}.priority IS '0 jobs, 1 reindexing, 2 rebuilding: the lowest goes first.';
COMMENT ON COLUMN {pending}.visible_at IS 'From when it may be claimed, by the clock of this server; also the order.';
COMMENT ON COLUMN {pending}.token IS 'The claim that holds it: fences a late failure.';
COMMENT ON COLUMN {pending}.attempts IS 'Claims so far: a crash counts, waiting for a rate limit does not.';

CREATE TABLE {served} (
    doc        bigint PRIMARY KEY,
    live_rev   bigint,
    want_rev   bigint,
    state      text NOT NULL CHECK (state IN ('pending', 'live', 'failed')),
    error      text,
    since      timestamptz NOT NULL,
    checked_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);
CREATE UNIQUE INDEX ON {served} (live_rev);
CREATE INDEX ON {served} (want_rev) WHERE want_rev IS NOT NULL;
CREATE INDEX ON {served} (checked_at) WHERE want_rev IS NOT NULL AND state = 'pending';
COMMENT ON TABLE {served} IS 'What this build shows of each document: publishing moves live_rev.';
COMMENT ON COLUMN {served}.doc IS 'The document.';
COMMENT ON COLUMN {served}.live_rev IS 'The revision that readers see; NULL: none yet.';
COMMENT ON COLUMN {served}.want_rev IS 'The revision that is to become live; NULL: nothing is wanted.';
COMMENT ON COLUMN {served}.state IS 'Of the newest revision: pending, live or failed.';
COMMENT ON COLUMN {served}.error IS 'Why it failed, one sentence.';
COMMENT ON COLUMN {served}.since IS 'Since when something has been wanted without a break.';
COMMENT ON COLUMN {served}.checked_at IS 'When the sweep looked last.';
