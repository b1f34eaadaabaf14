"""`verify`: compare what must be with what is, and mend it."""

from collections.abc import Iterator
from typing import Any

import click

from worker.cli.client import Client
from worker.cli.documents import options, output
from worker.configuration import load
from worker.keyspace import STAGING


@click.command()
@click.option("--repair", is_flag=True, help="Mend what is wrong, and delete what nothing refers to.")
@options
def verify(repair: bool, index: str, as_json: bool) -> int:
    """Check that an index is whole; it may be in use meanwhile.

    Exit code 1: something is wrong, and --repair was not given. What nothing refers to (old vectors, old revisions)
    is not wrong: it is collected once an hour.
    """
    configuration = load()
    configuration.index(index)
    client = Client(configuration)
    result = client.call("tasks.verify", STAGING, index=index, repair=repair)
    output(result, as_json, _lines(result, repair))
    return 0 if result["healthy"] else 1


def _lines(result: dict[str, Any], repair: bool) -> Iterator[str]:
    documents = ", ".join(f"{count:,} {name}" for name, count in result["documents"].items())
    yield f"{result['index']}: documents {documents}; looked at in {result['seconds']:.1f} s"
    checks = result["checks"]
    if not checks:
        yield "nothing was ever indexed"
        return
    several = len({check["build"] for check in checks}) > 1
    last = "repaired" if repair else ""
    yield f"{'check':<54} {'found':>8}  {'--repair':<38} {last}".rstrip()
    for check in checks:
        problem = f"build {check['build']}: {check['problem']}" if several else check["problem"]
        mended = f"{check['repaired']:,}" if repair and check["found"] else ""
        yield f"{problem:<54} {check['found']:>8,}  {check['remedy']:<38} {mended}".rstrip()
    for check in checks:
        if check["examples"] and check["fault"]:
            more = ", ..." if check["found"] > len(check["examples"]) else ""
            yield f"{check['problem']}: {', '.join(check['examples'])}{more}"
    queued = sum(repairs["queued"] for repairs in result["swept"].values())
    if queued:
        yield f"so far the sweep has found {queued:,} contents neither embedded nor queued: each is a bug, report it"
    if not result["healthy"]:
        yield "something is wrong: run `vector-index verify --repair`"
