"""`verify`: check an index for inconsistencies, and fix them."""

from collections.abc import Iterator
from typing import Any

import click

from worker.cli.client import Client
from worker.cli.options import index_and_json
from worker.cli.output import print_result
from worker.cli.waiting import work_goes_on
from worker.configuration import load
from worker.exit_codes import ExitCode
from worker.keyspace import STAGING


@click.command()
@click.option(
    "--repair", is_flag=True, help="Fix the inconsistencies, and delete unused vectors and revisions."
)
@index_and_json
def verify(repair: bool, index: str, as_json: bool) -> ExitCode:
    """Check an index for inconsistencies; --repair fixes them.

    The index can be in use meanwhile. Unused vectors and old revisions are normal: workers delete them once an hour.
    Exit code 1: inconsistencies were found and not repaired.
    """
    configuration = load()
    configuration.index(index)
    client = Client(configuration)
    with work_goes_on(lambda: "this check"):
        result = client.call("tasks.verify", STAGING, index=index, repair=repair)
    print_result(result, as_json, _lines(result, repair))
    return ExitCode.DONE if result["healthy"] else ExitCode.FAILED


def _lines(result: dict[str, Any], repair: bool) -> Iterator[str]:
    documents = ", ".join(f"{count:,} {name}" for name, count in result["documents"].items())
    yield f"{result['index']}: documents {documents}; checked in {result['seconds']:.1f} s"
    checks = result["checks"]
    if not checks:
        yield "the index is empty: nothing has been indexed yet"
        return
    several = len({check["build"] for check in checks}) > 1
    last = "repaired" if repair else ""
    yield f"{'check':<54} {'found':>8}  {'--repair':<38} {last}".rstrip()
    for check in checks:
        problem = f"build {check['build']}: {check['problem']}" if several else check["problem"]
        repaired = f"{check['repaired']:,}" if repair and check["found"] else ""
        yield f"{problem:<54} {check['found']:>8,}  {check['remedy']:<38} {repaired}".rstrip()
    for check in checks:
        if check["examples"] and check["fault"]:
            more = ", ..." if check["found"] > len(check["examples"]) else ""
            yield f"{check['problem']}: {', '.join(check['examples'])}{more}"
    queued = sum(repairs["queued"] for repairs in result["swept"].values())
    if queued:
        yield (
            f"the sweep has re-queued {queued:,} chunks that were neither embedded nor queued: please report this as "
            "a bug"
        )
    if not result["healthy"]:
        yield "inconsistencies found: run `vector-index verify --repair`"
