"""`plan`: what indexing would send and cost, counted without a provider, Postgres or a broker."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from worker import wiring
from worker.cli.documents import Report, options, output, read
from worker.configuration import IndexSettings, load
from worker.documents import Chunk, Document
from worker.indexing.packing import batches
from worker.indexing.staging import split
from worker.protocols import EmbeddingBackend
from worker.recipes import Recipe
from worker.store.builds import Build
from worker.tokens import ESTIMATE


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@options
def plan(paths: tuple[Path, ...], index: str, as_json: bool) -> int:
    """Count the chunks, tokens and requests that indexing files and folders takes, and their price.

    Reads and splits as `index` does, under the settings of the index, and sends nothing; what the index holds
    already is not looked at. Requests are counted as a large backlog fills them: while little waits, it is shared
    out to more and smaller ones. Exit code 1: some files or lines give no document.
    """
    configuration = load()
    settings = configuration.index(index)
    report = Report()
    values = read(paths, configuration.max_document_bytes, report)
    backend = wiring.make_backend(settings.embedding_backend)
    found = Plan(backend=backend, price_per_million_tokens=configuration.price_per_million_tokens)
    with _progress() as advance:
        documents = (
            Document.from_json(value, max_bytes=configuration.max_document_bytes) for value in values
        )
        limits = {"weight_limit": backend.batch_token_limit, "size_limit": backend.batch_size}
        contents = found.contents(documents, settings, advance)
        for request in batches(contents, lambda chunk: chunk.tokens, **limits):
            found.add(request)
    report.documents = found.documents
    report.check(paths)
    value = {"index": index, **found.as_json(), "unread": report.unread, "passed_over": report.passed_over}
    output(value, as_json, [*found.lines(index), *report.problem_lines()])
    return 1 if report.problems else 0


@dataclass(kw_only=True)
class Plan:
    """What would be sent; a content that occurs again is sent once."""

    backend: EmbeddingBackend
    price_per_million_tokens: float | None
    documents: int = 0
    bytes: int = 0  # of their texts
    chunks: int = 0
    distinct: int = 0  # contents: the inputs of all requests
    tokens: int = 0  # of all requests
    requests: int = 0
    token_shares: float = 0.0  # sum over the requests: tokens by BATCH_TOKEN_LIMIT
    input_shares: float = 0.0  # sum over the requests: inputs by BATCH_SIZE

    def contents(
        self, documents: Iterator[Document], index: IndexSettings, advance: Callable[[int], None]
    ) -> Iterator[Chunk]:
        """The chunks of the documents, each content once; `advance` takes the bytes of each document.

        About 100 bytes of each content are kept, its hash.
        """
        # the length of a vector changes no chunk, and asking for it would be a request
        recipe = Recipe.of(index, self.backend, dimensions=0)
        build = Build(build=0, index_id=0, index=index.name, state="filling", recipe=recipe.as_json())
        seen: set[bytes] = set()
        for document in documents:
            size = len(document.text.encode())
            self.documents += 1
            self.bytes += size
            for chunk in split(document, build, self.backend):
                self.chunks += 1
                if chunk.hash not in seen:
                    seen.add(chunk.hash)
                    yield chunk
            advance(size)

    def add(self, request: Sequence[Chunk]) -> None:
        tokens = sum(chunk.tokens for chunk in request)
        self.requests += 1
        self.distinct += len(request)
        self.tokens += tokens
        self.token_shares += tokens / self.backend.batch_token_limit
        self.input_shares += len(request) / self.backend.batch_size

    def as_json(self) -> dict[str, Any]:
        """`fill_tokens` and `fill_inputs` are means over the requests, 0 to 1."""
        price = self.price_per_million_tokens
        return {
            "model": self.backend.model_id,
            "documents": self.documents,
            "bytes": self.bytes,
            "chunks": self.chunks,
            "distinct": self.distinct,
            "tokens": self.tokens,
            "tokens_are": "at most" if self.backend.tokenizer == ESTIMATE else "exact",
            "requests": self.requests,
            "fill_tokens": round(self.token_shares / max(1, self.requests), 3),
            "fill_inputs": round(self.input_shares / max(1, self.requests), 3),
            "price": None if price is None else self.tokens / 1_000_000 * price,
        }

    def lines(self, index: str) -> Iterator[str]:
        found = self.as_json()
        at_most = "at most " if found["tokens_are"] == "at most" else ""
        yield f"{index}, embedded with {self.backend.model_id}"
        yield f"documents  {self.documents:,}, {self.bytes / 1e6:,.2f} MB of text"
        yield f"chunks     {self.chunks:,}, {self.distinct:,} of them distinct"
        yield f"tokens     {at_most}{self.tokens:,}"
        yield (
            f"requests   {self.requests:,}, full to {found['fill_tokens']:.0%} of {self.backend.batch_token_limit:,} "
            f"tokens and to {found['fill_inputs']:.0%} of {self.backend.batch_size:,} inputs"
        )
        if found["price"] is not None:
            yield f"price      {at_most}{found['price']:,.4f}, at {self.price_per_million_tokens:g} per million tokens"


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Bytes and their rate on stderr where that is a terminal; the function takes the bytes of one document."""
    console = Console(stderr=True)
    rate = (DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    columns = (TextColumn("planning"), BarColumn(), *rate)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("planning", total=None)
        yield lambda size: progress.advance(bar, size)
