"""`plan`: estimate the requests and the price of indexing. Works offline."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.progress import DownloadColumn, TimeElapsedColumn, TransferSpeedColumn

from worker import wiring
from worker.cli.input_files import InputFiles
from worker.cli.options import index_and_json
from worker.cli.output import print_result, progress_bar
from worker.configuration import IndexSettings, load
from worker.documents import Chunk, Document
from worker.exit_codes import ExitCode
from worker.indexing.staging import split
from worker.packing import batches
from worker.protocols import EmbeddingBackend
from worker.recipes import Recipe
from worker.store.builds import Build
from worker.tokens import ESTIMATE


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@index_and_json
def plan(paths: tuple[Path, ...], index: str, as_json: bool) -> ExitCode:
    """Estimate chunks, tokens, requests and price of indexing files.

    Reads and splits the files as `index` does, with the settings of the index. Sends nothing, and counts documents
    that the index already has as new. Requests are counted as a large backlog fills them; a small backlog is spread
    over more and smaller requests. Set PRICE_PER_MILLION_TOKENS to get the price. Exit code 1: some files or lines
    could not be read.
    """
    configuration = load()
    settings = configuration.index(index)
    files = InputFiles(paths, configuration.max_document_bytes)
    backend = wiring.make_backend(settings.embedding_backend)
    found = Plan(backend=backend, price_per_million_tokens=configuration.price_per_million_tokens)
    with progress_bar("planning", DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn()) as update:
        documents = (
            Document.from_json(value, max_bytes=configuration.max_document_bytes)
            for value in files.documents()
        )
        limits = {"weight_limit": backend.batch_token_limit, "size_limit": backend.batch_size}
        contents = found.contents(documents, settings, lambda size: update(advance=size))
        for request in batches(contents, lambda chunk: chunk.tokens, **limits):
            found.add(request)
    files.check_found(found.documents)
    value = {"index": index, **found.as_json(), **files.as_json()}
    print_result(value, as_json, [*found.lines(index), *files.problem_lines()])
    return ExitCode.FAILED if files.unread else ExitCode.DONE


@dataclass(kw_only=True)
class Plan:
    """The requests that indexing would send. Equal chunks are sent once."""

    backend: EmbeddingBackend
    price_per_million_tokens: float | None
    documents: int = 0
    bytes: int = 0  # of their texts
    chunks: int = 0
    distinct: int = 0  # chunks with different contents: the inputs of all requests
    tokens: int = 0  # of all requests
    requests: int = 0
    token_shares: float = 0.0  # sum over the requests: tokens / BATCH_TOKEN_LIMIT
    input_shares: float = 0.0  # sum over the requests: inputs / BATCH_SIZE

    def contents(
        self, documents: Iterator[Document], index: IndexSettings, advance: Callable[[int], None]
    ) -> Iterator[Chunk]:
        """Yield the chunks of the documents, each content once; call `advance` with the bytes of each document.

        Keeps the hash of each content, about 100 bytes.
        """
        # chunks do not depend on the length of vectors, and finding it may take a request
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
        """Return the totals. `fill_tokens` and `fill_inputs` are means over the requests, 0 to 1."""
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
            "price": price_of(self.tokens, price),
        }

    def lines(self, index: str) -> Iterator[str]:
        found = self.as_json()
        at_most = "at most " if found["tokens_are"] == "at most" else ""
        yield f"{index}, embedded with {self.backend.model_id}"
        yield f"documents  {self.documents:,}, {self.bytes / 1e6:,.2f} MB of text"
        yield f"chunks     {self.chunks:,}, {self.distinct:,} of them distinct"
        yield f"tokens     {at_most}{self.tokens:,}"
        yield (
            f"requests   {self.requests:,}, on average {found['fill_tokens']:.0%} of "
            f"{self.backend.batch_token_limit:,} tokens and {found['fill_inputs']:.0%} of "
            f"{self.backend.batch_size:,} inputs"
        )
        if found["price"] is not None:
            yield price_line(self.tokens, self.price_per_million_tokens, at_most)


def price_of(tokens: int, per_million_tokens: float | None) -> float | None:
    """Return the price of so many tokens; `None` without PRICE_PER_MILLION_TOKENS."""
    return None if per_million_tokens is None else tokens / 1_000_000 * per_million_tokens


def price_line(tokens: int, per_million_tokens: float | None, how: str) -> str:
    """Say what so many tokens cost; `how` is "at most " or "about "."""
    price = price_of(tokens, per_million_tokens)
    return f"price      {how}{price:,.4f}, at {per_million_tokens:g} per million tokens"
