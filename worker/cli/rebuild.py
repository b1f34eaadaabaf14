"""`rebuild`: take an index to the settings of today, beside the searches."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.progress import MofNCompleteColumn, TextColumn, TimeElapsedColumn

from worker.cli.client import Client
from worker.cli.options import index_and_json
from worker.cli.output import counted, print_result, progress_bar
from worker.cli.sample import MAX_SAMPLE, try_out
from worker.cli.waiting import WaitReason, work_goes_on
from worker.configuration import load
from worker.exit_codes import ExitCode
from worker.keyspace import STAGING

UNCHANGED = {  # by action
    "start": "nothing to do: the index is as the settings ask for",
    "rollback": "nothing to do: searches read the earlier build",
    "cancel": "nothing to cancel: no rebuild is running",
    "drop_old": "nothing to drop: there is no earlier build",
}
OUTCOMES = {
    "cancelled": "cancelled: searches go on as before",
    "dropped": "the earlier builds are dropped",
}


@click.command()
@click.option("--keep-old", is_flag=True, help="Keep the replaced build for --rollback, until --drop-old.")
@click.option("--rollback", is_flag=True, help="Switch back to the build that was live before.")
@click.option("--cancel", is_flag=True, help="Give up the build that is being filled.")
@click.option("--drop-old", is_flag=True, help="Drop the builds that a rebuild has replaced.")
@click.option("--no-wait", is_flag=True, help="Start the rebuild, and leave it to the workers.")
@click.option(
    "--sample",
    type=click.IntRange(1, MAX_SAMPLE),
    help="Change nothing: estimate the rebuild from so many documents. With --eval, compare the search results, too.",
)
@click.option(
    "--eval",
    "questions",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="With --sample: questions as `vector-index eval` takes them.",
)
@index_and_json
def rebuild(
    keep_old: bool,
    rollback: bool,
    cancel: bool,
    drop_old: bool,
    no_wait: bool,
    sample: int | None,
    questions: Path | None,
    index: str,
    as_json: bool,
) -> ExitCode:
    """Take an index to other settings, such as another model, while it is searched.

    Fills a second build from the stored texts, and switches to it once it has every document. Searches read the old
    build until then, and new documents go into both. Only chunks that have no vector yet under the new settings are
    sent to the model. The old build stays for ten minutes. A killed worker or Ctrl-C stops nothing: the workers go on.
    Exit code 1: documents that fail under the new settings keep the index from the switch.

    Try before you rebuild: --sample 200 --eval questions.jsonl embeds 200 documents under the new settings, beside the
    index. It prints hit@k, MRR and nDCG of both settings, and the requests, tokens, price and time of the whole
    rebuild. --sample alone sends no text.
    """
    actions = {"rollback": rollback, "cancel": cancel, "drop_old": drop_old}
    chosen = [name for name, is_set in actions.items() if is_set]
    if len(chosen) > 1:
        raise click.UsageError("choose one of --rollback, --cancel and --drop-old")
    if sample is not None:
        if chosen or keep_old or no_wait:
            raise click.UsageError(
                "--sample changes nothing: combine it with --eval, --index and --json alone"
            )
        return try_out(index, sample, questions, as_json)
    if questions is not None:
        raise click.UsageError("--eval measures a sample: add --sample 200")
    configuration = load()
    configuration.index(index)
    client = Client(configuration)
    action = chosen[0] if chosen else "start"
    run = client.send("tasks.rebuild", STAGING, index=index, action=action, keep_old=keep_old)
    if no_wait:
        sent = {"index": index, "task_id": run.id}
        print_result(sent, as_json, [f"{index}: task {run.id} is queued; see `vector-index status`"])
        return ExitCode.DONE
    reason = WaitReason(client, index)
    columns = (MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
    with (
        work_goes_on(lambda: "the rebuild: see `vector-index status --watch`"),
        progress_bar("rebuilding", *columns) as update,
    ):

        def show(progress: Any) -> None:
            state, counts = progress
            reason.check((state, counts))
            update(completed=counts.get("done", 0), total=counts.get("documents"), left=_left(counts))

        update(left="")
        result = client.wait(run, STAGING, on_wait=show)
    print_result(result, as_json, _lines(result, action))
    return ExitCode.FAILED if result["outcome"] == "blocked" else ExitCode.DONE


def _left(counts: Mapping[str, Any]) -> str:
    left = counts.get("seconds_left")
    return "" if left is None else f"{left:.0f} s left"


def _lines(result: Mapping[str, Any], action: str) -> Iterator[str]:
    index, outcome = result["index"], result["outcome"]
    short = OUTCOMES | {"unchanged": UNCHANGED[action]}
    if outcome in short:
        yield f"{index}: {short[outcome]}"
        return
    counts = (
        f"{counted(result['documents'], 'document')}, {counted(result['copied'], 'vector')} reused, "
        f"{result['embedded']:,} embedded, {result['seconds']:.1f} s"
    )
    if outcome == "live":
        yield f"{index}: searches read build {result['build']} now: {counts}"
        return
    yield f"{index}: build {result['build']} is filled, and searches still read the old one: {counts}"
    yield (
        f"{counted(result['failures'], 'document')} that searches find today failed under the new settings; retry, "
        "correct or delete them, or give up with `vector-index rebuild --cancel`"
    )
    for failure in result["failed"]:
        yield f"failed: {failure['id']}: {failure['error']}"
