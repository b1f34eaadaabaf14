"""The lines of an exported index: what fits is read exactly, and what does not is refused with its reason."""

import base64
import json
from typing import Any

import numpy as np
import pytest

from worker.documents import Document, digest, embedding_text
from worker.errors import InvalidDocument, InvalidQuery
from worker.indexing.transfer import lines
from worker.indexing.transfer.lines import FORMAT, GivenDocument, Header, Tombstone

HEADER = Header(recipe={"model": "hash", "dimensions": 3, "document_prefix": "passage: "})
VECTOR = [0.1, -2.0, 3e-20]
BASE64 = base64.b64encode(np.array(VECTOR, dtype="<f4").tobytes()).decode()


def read(value: object, header: Header = HEADER, *, max_bytes: int = 1000) -> Any:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return lines.read_line(text, header, max_bytes=max_bytes)


def test_a_line_of_an_export_is_read_as_it_was_written() -> None:
    document = Document(id="a\nb", text="Grüße.\n\nEnde. ", title="T", metadata={"n": [1, None]}, version=7)
    entries = [
        {"start": 0, "end": 6, "tokens": 4, "heading": "T", "vector": BASE64,
         "hash": digest(embedding_text("passage: ", "T", "Grüße.")).hex()},
        {"start": 8, "end": 13, "tokens": 2, "heading": "", "hash": digest("passage: Ende.").hex()},
    ]  # fmt: skip
    line = lines.document_line(document, entries, older=True)
    assert line.count(b"\n") == 1
    found = lines.read_line(line, HEADER, max_bytes=1000)
    assert isinstance(found, GivenDocument)
    assert (found.document, found.older) == (document, True)
    first, second = found.chunks_for("passage: ", lambda text: 99)
    assert [chunk.tokens for chunk in (first, second)] == [4, 2]
    assert (first.text, second.text) == ("Grüße.", "Ende.")
    [(hash, vector)] = found.vectors_for("passage: ").items()
    assert hash == first.hash
    assert vector.tolist() == np.array(VECTOR, dtype=np.float32).tolist()
    assert lines.encode_vector(vector) == BASE64


@pytest.mark.parametrize(
    "value",
    [
        {"id": "x", "text": " One. ", "vector": VECTOR},
        {"id": "x", "text": " One. ", "chunks": [{"text": "One.\n", "vector": VECTOR}]},
        {"id": "x", "chunks": [{"text": "One.", "vector": BASE64}]},
        {"id": "x", "text": "One.", "chunks": [{"start": 0, "end": 4, "vector": BASE64}]},
    ],
)
def test_bought_vectors_need_no_more_than_an_id_a_text_and_a_vector(value: object) -> None:
    found = read(value, Header(recipe={"model": "hash", "dimensions": 3}))
    [chunk] = found.chunks_for("", lambda text: len(text))
    assert (chunk.text, chunk.tokens, chunk.hash) == ("One.", 4, digest("One."))
    assert list(found.vectors_for("")) == [chunk.hash]


def test_repeated_and_overlapping_chunks_are_found_in_their_order() -> None:
    text = "no no no. And yes, no."
    chunks = [{"text": part} for part in ("no no", "no. And", "And yes,", "no.")]
    found = read({"id": "x", "text": text, "chunks": chunks})
    assert [(chunk.start, chunk.end) for chunk in found.chunks] == [(0, 5), (6, 13), (10, 18), (19, 22)]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"vector": [1.0, 2.0]}, "has 2 numbers instead of 3"),
        ({"vector": [[1.0, 2.0, 3.0]]}, "neither a list of numbers nor base64"),
        ({"vector": BASE64[:-4]}, "neither a list|has 2 numbers"),
        ({"vector": "Grüße"}, "neither a list of numbers nor base64"),
        ({"vector": ["a", 1, 2]}, "neither a list of numbers nor base64"),
        ({"vector": {}}, "neither a list of numbers nor base64"),
        ({"vector": [0, 0, 0]}, "no direction"),
        ({"vector": [float("nan"), 1, 2]}, "no direction"),
        ({"vector": [1e300, 1, 2]}, "no direction"),
        ({"chunks": [], "vector": VECTOR}, "both chunks and a vector"),
        ({"chunks": "One."}, "chunks must be a list of objects"),
        ({"chunks": ["One."]}, "chunks must be a list of objects"),
        ({"chunks": [{"text": "Two."}]}, "is not in the text of the document"),
        ({"chunks": [{"text": 7}]}, "must be a string that is not empty"),
        ({"chunks": [{"text": "One."}]}, "no chunk has the text from character 4 on"),
        ({"chunks": [{"text": "Two three."}]}, "no chunk has characters 0 to 5 of the text"),
        ({"chunks": [{"start": 0, "end": 99}]}, "its start and end are not within the text"),
        ({"chunks": [{"start": 4, "end": 4}]}, "its start and end are not within the text"),
        ({"chunks": [{"start": "0", "end": 4}]}, "its start and end are not within the text"),
        ({"chunks": [{"start": 0, "end": 5}]}, "begins or ends with white space"),
        ({"chunks": [{"start": 0, "end": 15, "hash": "00"}]}, "does not have the hash"),
        ({"chunks": [{"start": 0, "end": 15, "heading": 1}]}, "heading must be a string"),
        ({"chunks": [{"start": 0, "end": 15, "tokens": -1}]}, "tokens must be a whole number"),
        ({"id": ""}, "id is missing"),
        ({"text": None}, "text must be a string"),
        ({"txt": "a"}, "unknown field 'txt'"),
        ({"text": "x" * 1001}, "over MAX_DOCUMENT_BYTES"),
        ({"version": 2**63}, "does not fit into 64 bits"),
        ({"deleted": True}, "needs its version"),
        ({"end": {"documents": 1}}, "the line with `end` is damaged"),
    ],
)
def test_a_line_that_does_not_fit_is_refused_with_its_reason(change: dict[str, Any], error: str) -> None:
    value = {"id": "x", "text": "One. Two three.", **change}
    with pytest.raises(InvalidDocument, match=error) as caught:
        read(value)
    assert "Two" not in str(caught.value)


@pytest.mark.parametrize("line", [b"{", b"[]", b"\xff{}", b"7", b"[" * 100_000])
def test_a_line_that_is_no_object_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidDocument, match="is not a JSON object"):
        read(line)


def test_a_tombstone_keeps_its_version() -> None:
    assert read(lines.tombstone_line("x", 5)) == Tombstone(id="x", version=5)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({}, "is not an exported index"),
        ({"format": "vector-index/2", "recipe": {"model": "m", "dimensions": 3}}, "is not an exported index"),
        ({"format": FORMAT}, "recipe.model is missing"),
        ({"format": FORMAT, "recipe": {"model": "m"}}, "recipe.dimensions in line 1 of f is None"),
        (
            {"format": FORMAT, "recipe": {"model": "m", "dimensions": "3"}},
            "recipe.dimensions in line 1 of f is '3'",
        ),
        (
            {"format": FORMAT, "recipe": {"model": "m", "dimensions": 3}, "documents": "1"},
            "documents in line 1 of f",
        ),
    ],
)
def test_a_file_with_another_first_line_is_refused(value: object, error: str) -> None:
    with pytest.raises(InvalidQuery, match=error):
        Header.read(json.dumps(value).encode(), "f")
