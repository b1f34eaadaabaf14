"""rebuild: take an index to the settings of today, while it is searched."""

from typing import Annotated, Literal

from celery import Task

from tasks.arguments import Index
from worker import wiring
from worker.celery.application import app
from worker.celery.retries import WAIT_FOR_SERVICES
from worker.errors import InvalidQuery, described
from worker.indexing import rebuilding
from worker.indexing.rebuilding import Rebuilder, Step
from worker.reference import Meaning
from worker.results import RebuildFailure, RebuildProgress, Rebuilt
from worker.store import connection, rebuilds, status
from worker.store.rebuilds import RebuildRequest

ACTIONS = ("start", "rollback", "cancel", "drop_old")
SLICE_SECONDS = 2.0  # of filling, before other tasks get the slot


@app.task(name="tasks.rebuild", bind=True, **WAIT_FOR_SERVICES)
def rebuild(
    self: Task,
    action: Annotated[
        Literal["start", "rollback", "cancel", "drop_old"],
        Meaning(
            "`start` fills a second build and switches to it; `rollback` switches back to the earlier one; `cancel` "
            "gives up the build that is being filled; `drop_old` drops the earlier one"
        ),
    ] = "start",
    keep_old: Annotated[
        bool, Meaning("keep the replaced build for a rollback; else it goes after ten minutes")
    ] = False,
    index: Index = "default",
) -> Rebuilt:
    """Rebuild an index under the settings of today, from its stored texts; searches go on.

    It becomes `tasks.continue_rebuild` with the same id. Only contents that have no vector under the new recipe
    are sent to the model. An index that has this recipe already stays as it is.

    Second run: finds the build of the first, and goes on with it.

    Errors: InvalidQuery, UnknownIndex, SettingsError.
    """
    if action not in ACTIONS:
        raise InvalidQuery(f"action is {described(action)}: choose {', '.join(ACTIONS)}")
    if not isinstance(keep_old, bool):
        raise InvalidQuery(f"keep_old must be true or false, not {described(keep_old)}")
    target = wiring.index(index)
    request = RebuildRequest(task_id=self.request.id, keep_old=keep_old)
    if action == "cancel":
        given_up = rebuilding.cancel(target, self.request.id)
        return _result(index, given_up, "unchanged" if given_up is None else "cancelled")
    if action == "drop_old":
        dropped = rebuilding.drop_old(target, self.request.id)
        return _result(index, None, "dropped" if dropped else "unchanged")
    begin = rebuilding.begin if action == "start" else rebuilding.roll_back
    build = begin(target, request)
    if build is None:
        return _result(index, None, "unchanged")
    raise self.replace(continue_rebuild.si(index=index, build=build.build))


# as for tasks.await_indexing: each slice is a task of its own
@app.task(
    name="tasks.continue_rebuild", bind=True, track_started=False, send_events=False, **WAIT_FOR_SERVICES
)
def continue_rebuild(
    self: Task,
    build: Annotated[int, Meaning("number of the build that is being filled")],
    after: Annotated[int, Meaning("the last document that was filled")] = 0,
    index: Index = "default",
) -> Rebuilt:
    """Go on with a rebuild for two seconds, then again, until the new build is live.

    Sent by: `tasks.rebuild`, which becomes it, and the sweep if nobody has touched a rebuild for a minute.

    Second run: fills what is missing, or finds the switch done.

    Errors: InvalidQuery, UnknownIndex, SettingsError.
    """
    target = wiring.index(index)
    step = Rebuilder(index=target, build=build).advance(seconds=SLICE_SECONDS, after=after)
    with connection.checkout(target.url) as conn:
        figures = status.rebuild_progress(conn, index, build)
        if step.state != "filling":
            rebuilds.finish(conn, build)
    if step.state != "filling":
        return _result(index, build, step.state, step, figures)
    if figures is not None:
        self.update_state(state="PROGRESS", meta=figures)
    raise self.replace(continue_rebuild.si(index=index, build=build, after=step.after))


def _result(
    index: str,
    build: int | None,
    outcome: Literal["live", "unchanged", "cancelled", "dropped", "blocked"],
    step: Step | None = None,
    figures: RebuildProgress | None = None,
) -> Rebuilt:
    lag = step.lag if step else None
    failed: list[RebuildFailure] = (
        [{"id": id, "error": error} for id, error in zip(lag.ids or (), lag.errors or (), strict=True)]
        if lag
        else []
    )
    return {
        "index": index,
        "build": build,
        "outcome": outcome,
        "documents": figures["documents"] if figures else 0,
        "copied": figures["copied"] if figures else 0,
        "embedded": figures["embedded"] if figures else 0,
        "seconds": figures["seconds"] if figures else 0.0,
        "failed": failed,
        "failures": lag.failed if lag else 0,
    }
