-- The tables of one build. {vector} is vector(n) or halfvec(n). The other names in braces are the tables, with the number
-- of the build.
-- Rows of pending and served change often: free space in their pages and an eager vacuum keep the tables small.
-- A chunk of up to 4 kB stays in its row as it is, two to a page. Postgres would compress whatever is over 2 kB, and
-- each search by words decompresses the lexemes of all chunks that it ranks.

CREATE TABLE {chunks} (
    rev     bigint NOT NULL,
    ordinal integer NOT NULL,
    hash    bytea NOT NULL,
    start   integer NOT NULL,
    "end"   integer NOT NULL,
    tokens  integer NOT NULL,
    heading text NOT NULL,
    text    text NOT NULL,
    lexemes tsvector NOT NULL,
    PRIMARY KEY (rev, ordinal)
) WITH (toast_tuple_target = 4080);
CREATE INDEX ON {chunks} (hash);
CREATE INDEX ON {chunks} (hashtextextended(text, 0));
CREATE INDEX ON {chunks} USING gin (lexemes);
COMMENT ON TABLE {chunks} IS 'Chunks of every revision that this build serves or is about to serve.';
COMMENT ON COLUMN {chunks}.rev IS 'Revision of the chunk.';
COMMENT ON COLUMN {chunks}.ordinal IS 'Position among the chunks of the revision, from 0.';
COMMENT ON COLUMN {chunks}.hash IS 'BLAKE2b of exactly the string that is embedded.';
COMMENT ON COLUMN {chunks}.start IS 'Position of the first code point in the text of the revision.';
COMMENT ON COLUMN {chunks}."end" IS 'Position after the last code point.';
COMMENT ON COLUMN {chunks}.tokens IS 'Tokens of the string that is embedded.';
COMMENT ON COLUMN {chunks}.heading IS 'Embedded in front of the text: title, important fields and the headings above.';
COMMENT ON COLUMN {chunks}.text IS 'Text of the revision from start to end.';
COMMENT ON COLUMN {chunks}.lexemes IS 'Words of heading and text, stemmed in the language of the build.';

CREATE TABLE {embeddings} (
    hash      bytea PRIMARY KEY,
    embedding {vector} NOT NULL
);
COMMENT ON TABLE {embeddings} IS 'One vector per distinct content; never updated.';
COMMENT ON COLUMN {embeddings}.hash IS 'BLAKE2b of the string that was embedded.';
COMMENT ON COLUMN {embeddings}.embedding IS 'Vector of that string.';

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
COMMENT ON TABLE {pending} IS 'Queue of contents that need a vector.';
COMMENT ON COLUMN {pending}.hash IS 'BLAKE2b of the string to embed; the string is read from a chunk with this hash.';
COMMENT ON COLUMN {pending}.tokens IS 'Tokens of that string.';
COMMENT ON COLUMN {pending}.priority IS '0 jobs, 1 reindexing, 2 rebuilding; the lowest is claimed first.';
COMMENT ON COLUMN {pending}.visible_at IS 'Not claimable before, by the clock of this server: end of a lease or a backoff. Also the order of the queue.';
COMMENT ON COLUMN {pending}.token IS 'Token of the claim that holds the row; fences a late failure.';
COMMENT ON COLUMN {pending}.attempts IS 'Claims so far; a crash counts, waiting for a rate limit does not.';

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
COMMENT ON TABLE {served} IS 'What searches see of each document in this build; publishing moves live_rev.';
COMMENT ON COLUMN {served}.doc IS 'Document.';
COMMENT ON COLUMN {served}.live_rev IS 'Revision that searches see; NULL: none yet.';
COMMENT ON COLUMN {served}.want_rev IS 'Revision that becomes live when its vectors are complete; NULL: none.';
COMMENT ON COLUMN {served}.state IS 'State of the newest revision: pending, live or failed.';
COMMENT ON COLUMN {served}.error IS 'Why it failed, one sentence; NULL unless failed.';
COMMENT ON COLUMN {served}.since IS 'Since when the document has been waiting without a break.';
COMMENT ON COLUMN {served}.checked_at IS 'When the sweep last checked the document.';
