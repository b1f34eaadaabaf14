"""`schema`: install the tables and functions in Postgres, without starting anything."""

import click

from worker import services
from worker.cli.streams import echo
from worker.configuration import load
from worker.store import schema as schemas
from worker.store.connection import where
from worker.store.schema_script import script


@click.command()
@click.option("--sql", is_flag=True, help="Print the SQL instead, and connect to nothing.")
def schema(sql: bool) -> None:
    """Create or migrate the schema vector_index in Postgres, and start nothing.

    Workers do the same when they start. Run it before them, if your application enqueues documents or your
    migrations create triggers. It can run any number of times. For test databases without pgvector, use
    examples/test_database.sql.
    """
    if sql:
        echo(script(), nl=False)
        return
    configuration = load()
    url = configuration.database_url or services.attach(configuration.home, valkey=False).database_url
    echo(f"schema version {schemas.install(url)} at {where(url)}")
