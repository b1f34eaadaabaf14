"""`addresses`: the addresses of Postgres and the broker, with their passwords."""

import click

from worker import services
from worker.cli.options import json_option
from worker.cli.output import print_result
from worker.configuration import load
from worker.services.postgres import programs


@click.command()
@json_option
def addresses(as_json: bool) -> None:
    """Print the addresses of Postgres and the broker, with their passwords.

    Each line is NAME=VALUE, for export $(vector-index addresses). For the embedded Postgres, POSTGRES_PROGRAMS is the
    folder of pg_dump, psql and others of its version; the system's pg_dump may be older and refuse it.
    """
    configuration = load()
    found = services.locate(
        configuration.home, database_url=configuration.database_url, broker_url=configuration.broker_url
    )
    values = {"DATABASE_URL": found.database_url, "BROKER_URL": found.broker_url}
    if not configuration.database_url:
        values["POSTGRES_PROGRAMS"] = str(programs())
    print_result(values, as_json, [f"{name}={value}" for name, value in values.items()])
