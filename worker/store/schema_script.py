"""The schema as one SQL statement, for those who install it by other means than `schema.install`."""

from worker.store.schema import LOCK_NAMESPACE, migrations
from worker.store.statements import SCHEMA, read

SCRIPT = """\
-- Schema {schema} of vector-index-worker, version {newest}. Idempotent: it does only what is missing.
-- Run it as the role of DATABASE_URL, which owns what it creates: psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f FILE
-- A role without the right needs an owner to run this first:
--   CREATE EXTENSION vector; CREATE SCHEMA {schema} AUTHORIZATION the_role;
DO $install$
DECLARE found integer;
BEGIN
    PERFORM pg_advisory_xact_lock({lock}, 0);
    CREATE EXTENSION IF NOT EXISTS vector;
    PERFORM set_config('search_path', (
        SELECT concat_ws(', ', quote_ident(nspname), 'public')
        FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'vector'
    ), true);
    IF to_regnamespace('{schema}') IS NULL THEN
        CREATE SCHEMA {schema};
    END IF;
    CREATE TABLE IF NOT EXISTS {schema}.migrations (
        version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp());
    SELECT max(version) INTO found FROM {schema}.migrations;
    IF found > {newest} THEN
        RAISE EXCEPTION 'the schema has version %, this script knows {newest}: use the one of a newer release', found;
    END IF;
{migrations}
END
$install$;
"""
MIGRATION = """\
    IF NOT EXISTS (SELECT FROM {schema}.migrations WHERE version = {number}) THEN
        EXECUTE $migration$
{text}
$migration$;
        INSERT INTO {schema}.migrations (version) VALUES ({number});
    END IF;"""


def script() -> str:
    """Return the statement. It is atomic and idempotent, and any client can send it."""
    parts = [
        MIGRATION.format(schema=SCHEMA, number=number, text=read(f"migrations/{file}").strip())
        for number, file in sorted(migrations().items())
    ]
    return SCRIPT.format(
        schema=SCHEMA, newest=max(migrations()), lock=LOCK_NAMESPACE, migrations="\n".join(parts)
    )
