"""`models`: what MODEL_ID may name here, with its limits, and what the settings make of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import click
import llm
from llm.models import EmbeddingModel, Model
from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table

from worker import backends, wiring
from worker.backends.limits import ChatLimits, EmbeddingLimits, chat_limits, embedding_limits
from worker.configuration import ChatBackendSettings, EmbeddingBackendSettings, load
from worker.errors import SettingsError
from worker.tokens import ESTIMATE

Settings = TypeVar("Settings", EmbeddingBackendSettings, ChatBackendSettings)

WIDTH = 160  # characters of a line where the output is no terminal

TITLES = {
    "embedding": "Embedding models: tokens of an input and of a request, inputs of a request, length of a vector",
    "chat": "Chat models: tokens of a prompt and of an answer",
}
# header: field of Row, by kind
COLUMNS = {
    "embedding": {
        "model": "model",
        "backend": "backend",
        "input": "token_limit",
        "request": "batch_token_limit",
        "inputs": "batch_size",
        "length": "dimensions",
        "counted": "counted",
        "key": "key",
    },
    "chat": {
        "model": "model",
        "backend": "backend",
        "prompt": "token_limit",
        "answer": "output_tokens",
        "counted": "counted",
        "key": "key",
    },
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model as a backend uses it, or as one would; None: not known, or without a meaning for its kind."""

    model: str
    aliases: tuple[str, ...] = ()
    backend: str | None = None  # of the settings; None: none uses the model
    token_limit: int | None = None  # tokens of one input, or of a whole prompt
    batch_token_limit: int | None = None  # tokens of one request
    batch_size: int | None = None  # inputs of one request
    dimensions: int | None = None  # None also where only a request could tell
    output_tokens: int | None = None  # of one answer
    counted: str | None = None  # tokens: "exact", or by a "bound"
    key: str | None = None  # "set" or "missing", never a key itself; None: the model needs none
    error: str | None = None  # why the backend cannot be made


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def models(as_json: bool) -> int:
    """List the models that MODEL_ID may name, those in use first, with limits, dimensions and keys.

    Sends no request; a plugin may ask its own server which models it has. Exit code 2: a backend of the settings
    cannot be made.
    """
    configuration = load()
    backends.load_plugins()
    names = llm.get_embedding_model_aliases()
    embedding = _rows(names, embedding_limits, configuration.embedding_backends, wiring.make_backend)
    chat = _rows(llm.get_model_aliases(), chat_limits, configuration.chat_backends, wiring.make_chat_backend)
    found = {"embedding": embedding, "chat": chat}
    if as_json:
        rows = {kind: [asdict(row) for row in rows] for kind, rows in found.items()}
        click.echo(json.dumps({**surroundings(), **rows}))
    else:
        _print(found)
    return 2 if any(row.error for row in embedding + chat) else 0


def surroundings() -> dict[str, Any]:
    """The folder of llm, which LLM_USER_PATH names, and the plugins that are loaded, as "name version"."""
    loaded = llm.get_plugins()  # type: ignore[no-untyped-call]
    return {
        "folder": str(llm.user_dir()),  # type: ignore[no-untyped-call]
        "plugins": sorted(f"{plugin['name']} {plugin.get('version', '')}".strip() for plugin in loaded),
    }


def _rows(
    names: Mapping[str, EmbeddingModel | Model],
    limits: Callable[[str], EmbeddingLimits | ChatLimits | None],
    settings: Mapping[str, Settings],
    make: Callable[[Settings], Any],
) -> list[Row]:
    """A row for each backend of the settings, then one for each model that none of them uses."""
    by_id: dict[str, Row] = {}
    for name, model in names.items():
        row: Row = by_id.get(model.model_id) or _known(model, limits)
        aliases = row.aliases if name == model.model_id else (*row.aliases, name)
        by_id[model.model_id] = replace(row, aliases=aliases)
    used = [_used(by_id, backend, make) for backend in settings.values()]
    in_use = {found.model for found in used}
    return used + [row for row in by_id.values() if row.model not in in_use]


def _known(
    model: EmbeddingModel | Model, limits: Callable[[str], EmbeddingLimits | ChatLimits | None]
) -> Row:
    # as the backends look it up: what an operator calls a model of a server says nothing
    has_own_name = isinstance(model, EmbeddingModel) and hasattr(model, "api_base")
    known = limits(model.model_name if has_own_name else model.model_id)  # type: ignore[union-attr]
    fields = ("token_limit", "batch_token_limit", "batch_size", "dimensions", "output_tokens")
    sizes: dict[str, Any] = {name: getattr(known, name, None) for name in fields}
    sizes["dimensions"] = getattr(model, "dimensions", None) or sizes["dimensions"]
    counted = "exact" if getattr(known, "tokenizer", None) else "bound"
    return Row(model=model.model_id, counted=counted, key=_key(model), **sizes)


def _used(rows: Mapping[str, Row], settings: Settings, make: Callable[[Settings], Any]) -> Row:
    """What the backend makes of its model; a class of a user's own may leave out what answering does not ask for."""
    try:
        made = make(settings)
    except SettingsError as error:
        return Row(model=settings.model_id, backend=settings.name, error=str(error))
    row = rows.get(made.model_id) or Row(model=made.model_id)
    fields = ("token_limit", "batch_token_limit", "batch_size")
    sizes: dict[str, Any] = {name: getattr(made, name, None) for name in fields}
    tokenizer = getattr(made, "tokenizer", None)
    return replace(
        row,
        backend=settings.name,
        # asking the backend could be a request
        dimensions=getattr(settings, "dimensions", None) or row.dimensions,
        counted=("bound" if tokenizer == ESTIMATE else "exact") if tokenizer else row.counted,
        key="set" if "key" in settings.init_kwargs else row.key,
        **sizes,
    )


def _key(model: EmbeddingModel | Model) -> str | None:
    with suppress(llm.NeedsKeyException):
        return "set" if model.get_key() else None
    return "missing"


def _print(found: Mapping[str, Sequence[Row]]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    for kind, rows in found.items():
        table = Table(title=TITLES[kind], title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        table.padding = (0, 1, 0, 0)
        for column in COLUMNS[kind]:
            name, word = column in ("model", "backend"), column in ("counted", "key")
            justify: JustifyMethod = "left" if name or word else "right"
            table.add_column(column, justify=justify, overflow="fold", no_wrap=not name)
        for row in rows:
            if not row.error:
                table.add_row(*(_cell(getattr(row, field)) for field in COLUMNS[kind].values()))
        console.print(table)
    for kind, rows in found.items():
        for row in rows:
            if row.error:
                click.echo(f"{kind} backend {row.backend!r} cannot be made: {row.error}")
    here = surroundings()
    click.echo(f"folder of llm: {here['folder']}")
    click.echo(f"plugins of llm: {', '.join(here['plugins'])}")


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value or "")
