-- The comments of all tables and columns, in plain words. Nothing else changes.

COMMENT ON SCHEMA vector_index IS 'Owned by vector-index-worker: documents to index, what is searchable, and the vectors.';

COMMENT ON TABLE vector_index.migrations IS 'Migrations that were applied to this database.';
COMMENT ON COLUMN vector_index.migrations.version IS 'Number of the migration file.';
COMMENT ON COLUMN vector_index.migrations.applied_at IS 'When it was applied.';

COMMENT ON TABLE vector_index.indexes IS 'A named, searchable set of documents.';
COMMENT ON COLUMN vector_index.indexes.index_id IS 'Primary key, also the key of the advisory lock of the index.';
COMMENT ON COLUMN vector_index.indexes.name IS 'Name in the settings; a dropped index has another name.';
COMMENT ON COLUMN vector_index.indexes.live_build IS 'Build that searches read; NULL before the first document.';
COMMENT ON COLUMN vector_index.indexes.collected_at IS 'When the last garbage collection was sent or ended.';
COMMENT ON COLUMN vector_index.indexes.paused_at IS 'When embedding was paused; NULL: not paused.';
COMMENT ON COLUMN vector_index.indexes.erased_at IS 'When documents were last deleted whose earlier revisions may have left vectors; NULL: none is left.';
COMMENT ON COLUMN vector_index.indexes.dropped_at IS 'When the index was dropped: its name is free, and its remaining rows are being deleted.';
COMMENT ON COLUMN vector_index.indexes.drop_report IS 'Of a dropped index: task id and result of the task that dropped it, so that a redelivered task drops nothing else.';

COMMENT ON TABLE vector_index.builds IS 'One complete materialization of an index under one recipe.';
COMMENT ON COLUMN vector_index.builds.build IS 'Number of the build, and suffix of its tables: chunks_7, embeddings_7, pending_7, served_7.';
COMMENT ON COLUMN vector_index.builds.index_id IS 'Index of the build.';
COMMENT ON COLUMN vector_index.builds.recipe IS 'Everything that the vectors depend on: model, dimensions, tokenizer, chunk sizes, prefix, distance, language.';
COMMENT ON COLUMN vector_index.builds.state IS 'filling and closing: being written; live: read by searches; retired: kept for a rollback.';
COMMENT ON COLUMN vector_index.builds.created_at IS 'When the build was created.';
COMMENT ON COLUMN vector_index.builds.error IS 'Last error of its embedding backend, without API keys and texts; NULL after a success.';
COMMENT ON COLUMN vector_index.builds.error_at IS 'When that error occurred.';
COMMENT ON COLUMN vector_index.builds.swept_published IS 'Documents that the sweep has published so far, after a worker died between save and publish.';
COMMENT ON COLUMN vector_index.builds.swept_queued IS 'Contents that the sweep found neither embedded nor pending; each one is a bug.';
COMMENT ON COLUMN vector_index.builds.indexing_until IS 'Lease of the worker that builds the vector index, by the clock of this server; NULL: nobody does.';

COMMENT ON TABLE vector_index.documents IS 'Documents as last sent by the application; a deleted one stays as a tombstone with its version.';
COMMENT ON COLUMN vector_index.documents.doc IS 'Primary key; rows are always locked in its order.';
COMMENT ON COLUMN vector_index.documents.index_id IS 'Index of the document.';
COMMENT ON COLUMN vector_index.documents.id IS 'Id given by the application.';
COMMENT ON COLUMN vector_index.documents.head_rev IS 'Newest revision; NULL in a tombstone.';
COMMENT ON COLUMN vector_index.documents.version IS 'Highest version seen in updates and deletions; NULL: none was given.';
COMMENT ON COLUMN vector_index.documents.content_hash IS 'BLAKE2b of text, title and metadata of the newest revision; NULL in a tombstone.';
COMMENT ON COLUMN vector_index.documents.deleted IS 'True in a tombstone, which fences late messages.';
COMMENT ON COLUMN vector_index.documents.changed_at IS 'When the newest revision last changed.';

COMMENT ON SEQUENCE vector_index.revision_numbers IS 'Revision numbers of all documents: a later revision has a higher number.';

COMMENT ON TABLE vector_index.revisions IS 'Immutable versions of documents; each is published as a whole.';
COMMENT ON COLUMN vector_index.revisions.rev IS 'Number of the revision; a later revision has a higher one.';
COMMENT ON COLUMN vector_index.revisions.doc IS 'Document of the revision.';
COMMENT ON COLUMN vector_index.revisions.title IS 'Title, may be empty.';
COMMENT ON COLUMN vector_index.revisions.metadata IS 'JSON object that filters match.';
COMMENT ON COLUMN vector_index.revisions.text IS 'Text, with NUL removed and lone surrogates replaced.';

COMMENT ON TABLE vector_index.jobs IS 'Ledger of staged messages: a redelivered message finds its row and changes nothing.';
COMMENT ON COLUMN vector_index.jobs.task_id IS 'Celery task id; retries, redelivery and replacement keep it.';
COMMENT ON COLUMN vector_index.jobs.slice IS 'Number of the slice, from 0; each slice is a transaction of at most 100 documents.';
COMMENT ON COLUMN vector_index.jobs.slices IS 'Number of slices of the message.';
COMMENT ON COLUMN vector_index.jobs.index_id IS 'Index of the job.';
COMMENT ON COLUMN vector_index.jobs.counts IS 'Counts of the slice; part of the result.';
COMMENT ON COLUMN vector_index.jobs.rejected IS 'Documents that could not be staged: a list of id and error; part of the result.';
COMMENT ON COLUMN vector_index.jobs.created_at IS 'When the slice was staged.';
COMMENT ON COLUMN vector_index.jobs.touched_at IS 'When the waiting task of the job last checked it; the sweep sends that task again when it is quiet.';
COMMENT ON COLUMN vector_index.jobs.finished_at IS 'When the result was reported; NULL: not yet.';
COMMENT ON COLUMN vector_index.jobs.report IS 'In slice 0 of a reindexing: further fields of the result; else NULL.';

COMMENT ON TABLE vector_index.job_documents IS 'Revisions that a job waits for; its counts are computed from these rows.';
COMMENT ON COLUMN vector_index.job_documents.task_id IS 'Job.';
COMMENT ON COLUMN vector_index.job_documents.slice IS 'Slice of the job.';
COMMENT ON COLUMN vector_index.job_documents.doc IS 'Document.';
COMMENT ON COLUMN vector_index.job_documents.rev IS 'Revision that the job staged or found.';
COMMENT ON COLUMN vector_index.job_documents.outcome IS 'How the document counts once that revision is searchable: indexed or unchanged.';

COMMENT ON TABLE vector_index.reindexing IS 'Lease of the run that reads the source of an index: at most one run at a time.';
COMMENT ON COLUMN vector_index.reindexing.index_id IS 'Index.';
COMMENT ON COLUMN vector_index.reindexing.task_id IS 'Celery task id of the run: a redelivery waits for its dead predecessor, any other run is skipped.';
COMMENT ON COLUMN vector_index.reindexing.token IS 'Random token of the run, so that two deliveries of one task are two runs.';
COMMENT ON COLUMN vector_index.reindexing.until IS 'When the lease expires, by the clock of this server.';

COMMENT ON TABLE vector_index.runs IS 'History of reindexing: one row per run of tasks.reindex, kept for 90 days, without texts.';
COMMENT ON COLUMN vector_index.runs.run IS 'Number of the run; a later run has a higher one.';
COMMENT ON COLUMN vector_index.runs.index_name IS 'Name of the index, which may not exist yet or no longer.';
COMMENT ON COLUMN vector_index.runs.task_id IS 'Celery task id; a redelivered or retried run keeps its row.';
COMMENT ON COLUMN vector_index.runs.scheduled_for IS 'Due time in the schedule; NULL: started by hand.';
COMMENT ON COLUMN vector_index.runs.started_at IS 'When the run first started.';
COMMENT ON COLUMN vector_index.runs.finished_at IS 'When the run ended; its documents may still wait for vectors.';
COMMENT ON COLUMN vector_index.runs.outcome IS 'running, done, failed (nothing was deleted) or skipped (nothing was read); message has the reason.';
COMMENT ON COLUMN vector_index.runs.incremental IS 'True when only rows newer than the cursor were read, so nothing was deleted.';
COMMENT ON COLUMN vector_index.runs.read IS 'Documents that the source returned, including rejected ones.';
COMMENT ON COLUMN vector_index.runs.staged IS 'New or changed documents.';
COMMENT ON COLUMN vector_index.runs.unchanged IS 'Documents that were searchable as they are.';
COMMENT ON COLUMN vector_index.runs.deleted IS 'Documents that the source no longer has.';
COMMENT ON COLUMN vector_index.runs.rejected IS 'Documents that could not be staged; the result of the task names them.';
COMMENT ON COLUMN vector_index.runs.message IS 'Why the run was skipped or failed, or why it deleted nothing; else NULL.';
COMMENT ON COLUMN vector_index.runs.cursor IS 'Where the next incremental run begins; NULL: the source has no cursor.';

COMMENT ON TABLE vector_index.schedules IS 'One row per index with a SCHEDULE, synced from the settings by the beat and by workers at their start.';
COMMENT ON COLUMN vector_index.schedules.index_name IS 'Name of the index, which may not exist yet.';
COMMENT ON COLUMN vector_index.schedules.schedule IS 'Crontab or seconds, as in the settings.';
COMMENT ON COLUMN vector_index.schedules.timezone IS 'IANA name of the time zone of the crontab.';
COMMENT ON COLUMN vector_index.schedules.due_at IS 'Next due time; in the past: not yet sent.';
COMMENT ON COLUMN vector_index.schedules.claimed_until IS 'Lease of the process that sends the due run, by the clock of this server; NULL: nobody does.';
COMMENT ON COLUMN vector_index.schedules.task_id IS 'Celery task id of the last run sent; while runs has no row of it, it is waiting or lost.';
COMMENT ON COLUMN vector_index.schedules.scheduled_for IS 'Due time of that run.';
COMMENT ON COLUMN vector_index.schedules.sent_at IS 'When its message was last sent.';

COMMENT ON TABLE vector_index.outbox IS 'Changes that applications enqueued in their own transactions. The transaction that stages a row deletes it.';
COMMENT ON COLUMN vector_index.outbox.seq IS 'Orders the changes of one document if its writers lock its row. Commits happen in another order, so no reader may remember a position.';
COMMENT ON COLUMN vector_index.outbox.index_name IS 'Name of the index as the application gave it; it may be missing in the settings.';
COMMENT ON COLUMN vector_index.outbox.id IS 'Id given by the application.';
COMMENT ON COLUMN vector_index.outbox.deleted IS 'True for a deletion: text, title and metadata are NULL.';
COMMENT ON COLUMN vector_index.outbox.text IS 'Text as given.';
COMMENT ON COLUMN vector_index.outbox.title IS 'Title as given, may be empty.';
COMMENT ON COLUMN vector_index.outbox.metadata IS 'JSON object as given.';
COMMENT ON COLUMN vector_index.outbox.version IS 'Version as given; NULL: seq decides.';
COMMENT ON COLUMN vector_index.outbox.enqueued_at IS 'When it was enqueued.';
COMMENT ON COLUMN vector_index.outbox.error IS 'Why the row cannot be staged; NULL: it waits. Kept until a later change of the document or a retry.';
COMMENT ON COLUMN vector_index.outbox.attempts IS 'Attempts to stage the text that are in progress or whose process died.';
COMMENT ON COLUMN vector_index.outbox.tried_at IS 'When the last attempt began; NULL: unknown.';

COMMENT ON FUNCTION vector_index.check_enqueued(text, text) IS 'Raises an error for an index name or an id that no worker can stage.';
COMMENT ON FUNCTION vector_index.enqueue_document(text, text, text, text, jsonb, bigint) IS 'Index a document when this transaction commits.';
COMMENT ON FUNCTION vector_index.enqueue_document(text, anynonarray, text, text, jsonb, bigint) IS 'Index a document when this transaction commits; for ids of other types than text, such as integer or uuid.';
COMMENT ON FUNCTION vector_index.enqueue_delete(text, text, bigint) IS 'Delete a document when this transaction commits.';
COMMENT ON FUNCTION vector_index.enqueue_delete(text, anynonarray, bigint) IS 'Delete a document when this transaction commits; for ids of other types than text, such as integer or uuid.';

-- the comments that ../build.sql gives to the tables of a new build
DO $$
DECLARE
    number bigint;
    described record;
BEGIN
    FOR number IN SELECT build FROM vector_index.builds LOOP
        FOR described IN SELECT * FROM (VALUES
            ('chunks', NULL, 'Chunks of every revision that this build serves or is about to serve.'),
            ('chunks', 'rev', 'Revision of the chunk.'),
            ('chunks', 'ordinal', 'Position among the chunks of the revision, from 0.'),
            ('chunks', 'hash', 'BLAKE2b of exactly the string that is embedded.'),
            ('chunks', 'start', 'Position of the first code point in the text of the revision.'),
            ('chunks', 'end', 'Position after the last code point.'),
            ('chunks', 'tokens', 'Tokens of the string that is embedded.'),
            ('chunks', 'heading', 'Embedded in front of the text: title, important fields and the headings above.'),
            ('chunks', 'text', 'Text of the revision from start to end.'),
            ('chunks', 'lexemes', 'Words of heading and text, stemmed in the language of the build.'),
            ('embeddings', NULL, 'One vector per distinct content; never updated.'),
            ('embeddings', 'hash', 'BLAKE2b of the string that was embedded.'),
            ('embeddings', 'embedding', 'Vector of that string.'),
            ('pending', NULL, 'Queue of contents that need a vector.'),
            ('pending', 'hash', 'BLAKE2b of the string to embed; the string is read from a chunk with this hash.'),
            ('pending', 'tokens', 'Tokens of that string.'),
            ('pending', 'priority', '0 jobs, 1 reindexing, 2 rebuilding; the lowest is claimed first.'),
            ('pending', 'visible_at', 'Not claimable before, by the clock of this server: end of a lease or a backoff. Also the order of the queue.'),
            ('pending', 'token', 'Token of the claim that holds the row; fences a late failure.'),
            ('pending', 'attempts', 'Claims so far; a crash counts, waiting for a rate limit does not.'),
            ('served', NULL, 'What searches see of each document in this build; publishing moves live_rev.'),
            ('served', 'doc', 'Document.'),
            ('served', 'live_rev', 'Revision that searches see; NULL: none yet.'),
            ('served', 'want_rev', 'Revision that becomes live when its vectors are complete; NULL: none.'),
            ('served', 'state', 'State of the newest revision: pending, live or failed.'),
            ('served', 'error', 'Why it failed, one sentence; NULL unless failed.'),
            ('served', 'since', 'Since when the document has been waiting without a break.'),
            ('served', 'checked_at', 'When the sweep last checked the document.')
        ) AS d (name, attribute, comment) LOOP
            EXECUTE CASE WHEN described.attribute IS NULL
                THEN format('COMMENT ON TABLE vector_index.%I IS %L', described.name || '_' || number, described.comment)
                ELSE format('COMMENT ON COLUMN vector_index.%I.%I IS %L', described.name || '_' || number, described.attribute, described.comment)
            END;
        END LOOP;
    END LOOP;
END $$;
