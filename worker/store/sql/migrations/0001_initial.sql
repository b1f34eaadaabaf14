-- The tables that all builds of all indexes share. Tables of a build: ../build.sql.
-- Every statement is plain PostgreSQL 15; the migration runs in one transaction, under an advisory lock.

CREATE TABLE vector_index.indexes (
    index_id   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    live_build bigint
);
COMMENT ON TABLE vector_index.indexes IS 'A named, searchable set of documents.';
COMMENT ON COLUMN vector_index.indexes.index_id IS 'Key of the row, and of the advisory lock of the index.';
COMMENT ON COLUMN vector_index.indexes.name IS 'The name in the settings.';
COMMENT ON COLUMN vector_index.indexes.live_build IS 'The build that readers see.';

CREATE TABLE vector_index.builds (
    build      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    index_id   integer NOT NULL REFERENCES vector_index.indexes,
    recipe     jsonb NOT NULL,
    state      text NOT NULL CHECK (state IN ('filling', 'closing', 'live', 'retired')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    error      text,
    error_at   timestamptz
);
CREATE INDEX builds_index_id ON vector_index.builds (index_id);
COMMENT ON TABLE vector_index.builds IS 'One complete materialisation of an index under one recipe.';
COMMENT ON COLUMN vector_index.builds.build IS 'Number of the build, and the suffix of its tables: chunks_7, …';
COMMENT ON COLUMN vector_index.builds.index_id IS 'The index that it materialises.';
COMMENT ON COLUMN vector_index.builds.recipe IS 'All that the vectors depend on: model, dimensions, tokenizer, chunk sizes, prefix, distance.';
COMMENT ON COLUMN vector_index.builds.state IS 'filling and closing: on its way; live: serves readers; retired: kept for going back.';
COMMENT ON COLUMN vector_index.builds.created_at IS 'When the build was begun.';
COMMENT ON COLUMN vector_index.builds.error IS 'The last failure of its embedding backend, without keys and text.';
COMMENT ON COLUMN vector_index.builds.error_at IS 'When that failure was met.';

CREATE TABLE vector_index.documents (
    doc          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    index_id     integer NOT NULL REFERENCES vector_index.indexes,
    id           text NOT NULL,
    head_rev     bigint,
    version      bigint,
    content_hash bytea,
    deleted      boolean NOT NULL DEFAULT false,
    changed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (index_id, id)
);
COMMENT ON TABLE vector_index.documents IS 'What the application sent last of each document; a deleted one stays as a tombstone with its version.';
COMMENT ON COLUMN vector_index.documents.doc IS 'Numeric key; rows are always locked in its order.';
COMMENT ON COLUMN vector_index.documents.index_id IS 'The index that the document belongs to.';
COMMENT ON COLUMN vector_index.documents.id IS 'The id that the application gave.';
COMMENT ON COLUMN vector_index.documents.head_rev IS 'The newest revision; NULL once deleted.';
COMMENT ON COLUMN vector_index.documents.version IS 'The highest version seen, of updates and deletes; NULL: never given.';
COMMENT ON COLUMN vector_index.documents.content_hash IS 'BLAKE2b over text, title and metadata of the head; NULL once deleted.';
COMMENT ON COLUMN vector_index.documents.deleted IS 'A tombstone: fences late messages.';
COMMENT ON COLUMN vector_index.documents.changed_at IS 'When the head moved last.';

CREATE SEQUENCE vector_index.revision_numbers;
COMMENT ON SEQUENCE vector_index.revision_numbers IS 'One sequence for all documents: a later revision has a higher number.';

CREATE TABLE vector_index.revisions (
    rev      bigint PRIMARY KEY DEFAULT nextval('vector_index.revision_numbers'),
    doc      bigint NOT NULL,
    title    text NOT NULL,
    metadata jsonb NOT NULL,
    text     text NOT NULL
);
CREATE INDEX revisions_doc ON vector_index.revisions (doc);
COMMENT ON TABLE vector_index.revisions IS 'What a document was at one time: immutable, and published as a whole.';
COMMENT ON COLUMN vector_index.revisions.rev IS 'Number of the revision; higher is later.';
COMMENT ON COLUMN vector_index.revisions.doc IS 'The document.';
COMMENT ON COLUMN vector_index.revisions.title IS 'Its title, possibly empty.';
COMMENT ON COLUMN vector_index.revisions.metadata IS 'A JSON object that filters look into.';
COMMENT ON COLUMN vector_index.revisions.text IS 'The text as stored: NUL removed, lone surrogates replaced.';

CREATE TABLE vector_index.jobs (
    task_id     text NOT NULL,
    slice       integer NOT NULL,
    slices      integer NOT NULL,
    index_id    integer NOT NULL REFERENCES vector_index.indexes,
    counts      jsonb NOT NULL,
    rejected    jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    touched_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    PRIMARY KEY (task_id, slice)
);
CREATE INDEX jobs_unfinished ON vector_index.jobs (touched_at) WHERE finished_at IS NULL AND slice = 0;
CREATE INDEX jobs_created_at ON vector_index.jobs (created_at);
COMMENT ON TABLE vector_index.jobs IS 'The ledger of staged messages: a redelivered one finds its row and does nothing.';
COMMENT ON COLUMN vector_index.jobs.task_id IS 'The Celery task id, kept through retries, redelivery and replacement.';
COMMENT ON COLUMN vector_index.jobs.slice IS 'Messages are staged in transactions of at most 100 documents, numbered from 0.';
COMMENT ON COLUMN vector_index.jobs.slices IS 'How many slices the message has.';
COMMENT ON COLUMN vector_index.jobs.index_id IS 'The index.';
COMMENT ON COLUMN vector_index.jobs.counts IS 'What the staging of the slice decided and made new; part of the result.';
COMMENT ON COLUMN vector_index.jobs.rejected IS 'Documents that were never staged: a list of id and error; part of the result.';
COMMENT ON COLUMN vector_index.jobs.created_at IS 'When the slice was staged.';
COMMENT ON COLUMN vector_index.jobs.touched_at IS 'When its waiting task looked last; quiet ones are sent again.';
COMMENT ON COLUMN vector_index.jobs.finished_at IS 'When its result was reported.';

CREATE TABLE vector_index.job_documents (
    task_id text NOT NULL,
    slice   integer NOT NULL,
    doc     bigint NOT NULL,
    rev     bigint NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('indexed', 'unchanged')),
    PRIMARY KEY (task_id, slice, doc),
    FOREIGN KEY (task_id, slice) REFERENCES vector_index.jobs ON DELETE CASCADE
);
COMMENT ON TABLE vector_index.job_documents IS 'Which revisions a job waits for; its counts are made from these rows.';
COMMENT ON COLUMN vector_index.job_documents.task_id IS 'The job.';
COMMENT ON COLUMN vector_index.job_documents.slice IS 'The slice of the job.';
COMMENT ON COLUMN vector_index.job_documents.doc IS 'The document.';
COMMENT ON COLUMN vector_index.job_documents.rev IS 'The revision that the job staged or found.';
COMMENT ON COLUMN vector_index.job_documents.outcome IS 'What it counts as once that revision is searchable.';

COMMENT ON SCHEMA vector_index IS 'Owned by vector-index-worker: what is to be indexed, what is searchable, and the vectors.';
COMMENT ON TABLE vector_index.migrations IS 'Which migrations this database has.';
COMMENT ON COLUMN vector_index.migrations.version IS 'Number of the migration file.';
COMMENT ON COLUMN vector_index.migrations.applied_at IS 'When it was applied.';
