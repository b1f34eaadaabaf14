"""`questions`: write a question set for `eval` from an index itself."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from rich.progress import MofNCompleteColumn

from worker import wiring
from worker.chat import question_writing
from worker.chat.sending import ChatModel
from worker.cli.options import index_and_json
from worker.cli.output import counted, print_result, progress_bar
from worker.cli.question_set import WrittenQuestion, documents, from_texts
from worker.configuration import load
from worker.errors import InvalidQuery, Refused
from worker.observability.printing import dumps
from worker.store import builds, connection, samples
from worker.store.samples import Piece

SPARE = 4  # documents for each question: not every one has a heading or a sentence that fits
PIECES = 8  # chunks of a document to choose from


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--count", type=click.IntRange(1, 1000), default=50, show_default=True, help="Questions at most."
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="Another seed chooses others.",
)
@click.option("--chat", is_flag=True, help="Let the chat backend of the index write them, one request each.")
@index_and_json
def questions(file: Path, count: int, seed: int, chat: bool, index: str, as_json: bool) -> None:
    """Write a question set for `eval` from an index itself.

    Each question is about one document: a heading that only this document has, or the first sentence of a chunk
    without the words of its title. Such questions compare settings; they are easier than those of readers. With
    --chat, a model asks in words of its own. The same seed and documents give the same file, except with --chat.
    Replace or add questions by hand.
    """
    configuration = load()
    settings = configuration.index(index)
    if file.exists():
        raise InvalidQuery(f"{file} exists: name another file, or remove it first")
    url = configuration.database_url or wiring.addresses().database_url
    pieces = _pieces(url, index, count, seed)
    written = (
        list(_by_chat(wiring.chat_model(settings), pieces, count))
        if chat
        else from_texts(pieces, count=count, seed=seed)
    )
    if not written:
        raise InvalidQuery(
            f"no question could be made of index {index!r}: its texts have too few headings and sentences; write "
            "questions by hand, or use --chat"
        )
    try:
        file.write_text("".join(f"{dumps(question.as_json())}\n" for question in written))
    except OSError as error:
        raise InvalidQuery(f"{file} cannot be written ({error.strerror}): name another file") from error
    print_result(
        {"index": index, "file": str(file), "questions": len(written)}, as_json, _lines(index, file, written)
    )


def _pieces(url: str, index: str, count: int, seed: int) -> list[Piece]:
    """Choose documents of the index, and some chunks of each. Raises InvalidQuery for an index without any."""
    with connection.session(url) as session:
        live = builds.live(session, index)
        chosen = [] if live is None else samples.choose(session, live, [], limit=SPARE * count, seed=seed)
        if live is None or not chosen:
            raise InvalidQuery(f"index {index!r} has no searchable documents yet: see `vector-index status`")
        return samples.pieces(session, live, [each.doc for each in chosen], each=PIECES, seed=seed)


def _by_chat(model: ChatModel, pieces: Sequence[Piece], count: int) -> Iterator[WrittenQuestion]:
    """Ask the model for a question about the longest piece of each document, until there are enough."""
    number = 0
    with progress_bar("asking", MofNCompleteColumn(), total=count) as update:
        for id, some in documents(pieces):
            piece = max(some, key=lambda each: len(each.text))
            try:
                text = question_writing.write(model, piece.title, piece.text)
            except Refused:
                continue  # a passage that the provider's filter does not take
            if text is not None:
                yield WrittenQuestion(text=text, id=id, made_of="chat")
                number += 1
                update(advance=1)
            if number == count:
                return


def _lines(index: str, file: Path, written: Sequence[WrittenQuestion]) -> Iterator[str]:
    ways = sorted({question.made_of for question in written})
    made = ", ".join(f"{sum(question.made_of == way for question in written):,} of a {way}" for way in ways)
    yield f"{index}: wrote {counted(len(written), 'question')} to {file} ({made.replace('of a chat', 'by chat')})"
    yield f"read them, correct them, then run `vector-index eval {file} --index {index}`"
