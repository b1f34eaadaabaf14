"""`models`: the models of llm with their limits, and how the backends in the settings use them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import click
import llm
from llm.models import EmbeddingModel, Model
from rich import box
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from worker import backends, wiring
from worker.backends.limits import ChatLimits, EmbeddingLimits, chat_limits, embedding_limits
from worker.backends.llm.lookup import name_for_limits
from worker.cli.options import json_option
from worker.cli.streams import echo, print_json
from worker.configuration import ChatBackendSettings, EmbeddingBackendSettings, load
from worker.errors import SettingsError
from worker.exit_codes import ExitCode
from worker.observability.printing import printable
from worker.tokens import ESTIMATE

Settings = TypeVar("Settings", EmbeddingBackendSettings, ChatBackendSettings)

WIDTH = 160  # characters of a line, if the output is not a terminal

TITLES = {
    "embedding": "Embedding models: maximum tokens per input and per request, inputs per request, vector length",
    "chat": "Chat models: maximum tokens per prompt and per answer",
}
# header: field of Row, by kind
COLUMNS = {
    "embedding": {
        "model": "model",
        "aliases": "aliases",
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
        "aliases": "aliases",
        "backend": "backend",
        "prompt": "token_limit",
        "answer": "output_tokens",
        "counted": "counted",
        "key": "key",
    },
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model, and the backend that uses it. `None`: unknown, or not applicable to this kind of model."""

    model: str
    aliases: tuple[str, ...] = ()
    backend: str | None = None  # name in the settings; None: no backend uses the model
    token_limit: int | None = None  # tokens per input, or per prompt
    batch_token_limit: int | None = None  # tokens per request
    batch_size: int | None = None  # inputs per request
    dimensions: int | None = None  # length of a vector; None also if only a request could tell
    output_tokens: int | None = None  # per answer
    counted: str | None = None  # how tokens are counted: "exact", or "bound" for an upper bound
    key: str | None = None  # "set" or "missing", never the key itself; None: the model needs no key
    error: str | None = None  # why the backend cannot be created


@click.command()
@json_option
def models(as_json: bool) -> ExitCode:
    """List the models that MODEL_ID may name, with limits and keys.

    Models that a backend uses come first. Tokens are counted exactly, or with an upper bound. Sends no request to a
    model, but a plugin may ask its own server for a list. Exit code 2: a backend in the settings cannot be created.
    """
    configuration = load()
    backends.load_plugins()
    names = llm.get_embedding_model_aliases()
    embedding = _rows(names, embedding_limits, configuration.embedding_backends, wiring.make_backend)
    chat = _rows(llm.get_model_aliases(), chat_limits, configuration.chat_backends, wiring.make_chat_backend)
    found = {"embedding": embedding, "chat": chat}
    if as_json:
        rows = {kind: [asdict(row) for row in rows] for kind, rows in found.items()}
        print_json({**llm_installation(), **rows})
    else:
        _print(found)
    return ExitCode.REFUSED if any(row.error for row in embedding + chat) else ExitCode.DONE


def llm_installation() -> dict[str, Any]:
    """Return llm's folder (LLM_USER_PATH) and its loaded plugins, as "name version"."""
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
    """Return a row for each backend in the settings, then one for each unused model."""
    by_id: dict[str, Row] = {}
    for name, model in names.items():
        row: Row = by_id.get(model.model_id) or _model_row(model, limits)
        aliases = row.aliases if name == model.model_id else (*row.aliases, name)
        by_id[model.model_id] = replace(row, aliases=aliases)
    used = [_backend_row(by_id, backend, make) for backend in settings.values()]
    in_use = {found.model for found in used}
    return used + [row for row in by_id.values() if row.model not in in_use]


def _model_row(
    model: EmbeddingModel | Model, limits: Callable[[str], EmbeddingLimits | ChatLimits | None]
) -> Row:
    known = limits(name_for_limits(model))
    fields = ("token_limit", "batch_token_limit", "batch_size", "dimensions", "output_tokens")
    sizes: dict[str, Any] = {name: getattr(known, name, None) for name in fields}
    sizes["dimensions"] = getattr(model, "dimensions", None) or sizes["dimensions"]
    counted = "exact" if getattr(known, "tokenizer", None) else "bound"
    return Row(model=model.model_id, counted=counted, key=_key(model), **sizes)


def _backend_row(rows: Mapping[str, Row], settings: Settings, make: Callable[[Settings], Any]) -> Row:
    """Return the limits that a backend applies to its model. A user's own class may lack some of them."""
    try:
        backend = make(settings)
    except SettingsError as error:
        return Row(model=settings.model_id, backend=settings.name, error=str(error))
    row = rows.get(backend.model_id) or Row(model=backend.model_id)
    fields = ("token_limit", "batch_token_limit", "batch_size")
    sizes: dict[str, Any] = {name: getattr(backend, name, None) for name in fields}
    tokenizer = getattr(backend, "tokenizer", None)
    return replace(
        row,
        backend=settings.name,
        # not `backend.dimensions`, which may send a request
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
            name, word = column in ("model", "aliases", "backend"), column in ("counted", "key")
            justify: JustifyMethod = "left" if name or word else "right"
            table.add_column(column, justify=justify, overflow="fold", no_wrap=not name)
        for row in rows:
            if not row.error:
                table.add_row(*(_cell(getattr(row, field)) for field in COLUMNS[kind].values()))
        console.print(table)
    for kind, rows in found.items():
        for row in rows:
            if row.error:
                echo(f"{kind} backend {row.backend!r} cannot be created: {row.error}")
    installation = llm_installation()
    echo(f"llm folder: {installation['folder']}")
    echo(f"llm plugins: {', '.join(installation['plugins'])}")


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return escape(printable(", ".join(value)))
    return f"{value:,}" if isinstance(value, int) else escape(printable(str(value or "")))
