"""Images and fonts inside a text are left out, wherever the text comes from; all else stays."""

import base64
import random
import sys
import time
import tracemalloc

import pytest

from tests.fixtures.folders import MAX_BYTES
from worker.documents import Document
from worker.inline_data import SLICE_CHARACTERS, without_inline_data

BASE64 = base64.b64encode(random.Random(3).randbytes(3_000)).decode()
WRAPPED = "\n".join(BASE64[at : at + 76] for at in range(0, len(BASE64), 76))
SVG = "<svg xmlns='http://www.w3.org/2000/svg'>" + "<path d='M1 1 L2 2'/>" * 20 + "</svg>"
PERCENT = "%3Csvg%20xmlns%3D" + "%3Cpath%20d%3D" * 30


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("![plan](data:image/png;base64,{})", "![plan]()"),
        ("– ![plan](Data:image/PNG;Base64,{})", "– ![plan]()"),
        ('![plan](data:image/png;base64,{} "A title")', '![plan]( "A title")'),
        (
            "![a][logo]\n\n[logo]: data:image/png;base64,{}\n\nWords behind it.",
            "![a][logo]\n\n[logo]: \n\nWords behind it.",
        ),
        ("[logo]: <data:image/png;base64,{}>", "[logo]: <>"),
        ("<img alt='x' src='data:image/jpeg;base64,{}' width=3>", "<img alt='x' src='' width=3>"),
        ("<img src=data:image/gif;base64,{} alt=plan>", "<img src= alt=plan>"),
        ("a {{ background: url(data:font/woff2;charset=utf-8;base64,{}) }}", "a {{ background: url() }}"),
        (".. image:: data:image/svg+xml;base64,{}\n   :alt: plan", ".. image:: \n   :alt: plan"),
    ],
)
@pytest.mark.parametrize("data", [BASE64, WRAPPED], ids=["one line", "wrapped"])
def test_inline_data_are_left_out(text: str, kept: str, data: str) -> None:
    given = text.replace("{{", "{").replace("}}", "}").replace("{}", data)
    assert without_inline_data(given) == (
        kept.replace("{{", "{").replace("}}", "}"),
        len(given) - len(kept.replace("{{", "{").replace("}}", "}")),
    )


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f'<img src="data:image/svg+xml;utf8,{SVG}" alt="plan">', '<img src="" alt="plan">'),
        (f"![plan](data:image/svg+xml,{PERCENT}) words", "![plan]() words"),
        (f"url('data:image/svg+xml;charset=UTF-8,{PERCENT}')", "url('')"),
    ],
)
def test_inline_vector_images_are_left_out(text: str, kept: str) -> None:
    assert without_inline_data(text)[0] == kept


LINES = "\n".join(BASE64[at : at + 64] for at in range(0, len(BASE64), 64))
HEXADECIMAL = random.Random(3).randbytes(300).hex()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f'{{"name": "plan.pdf", "content": "{BASE64}"}}', '{"name": "plan.pdf", "content": ""}'),
        (f'"image/png": "{BASE64}\\n",', '"image/png": "\\n",'),
        (
            f"-----BEGIN CERTIFICATE-----\n{LINES}\n-----END CERTIFICATE-----",
            "-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----",
        ),
        (f"Content-Transfer-Encoding: base64\n\n{WRAPPED}", "Content-Transfer-Encoding: base64\n\n"),
        (f"The dump is {HEXADECIMAL}.", "The dump is ."),
        (f"![plan](DATA:image/PNG;BASE64,{BASE64})", "![plan]()"),
    ],
)
def test_encoded_data_without_an_address_are_left_out(text: str, kept: str) -> None:
    assert without_inline_data(text)[0] == kept


@pytest.mark.parametrize(
    "text",
    [
        "src/main/java/org/example/library/lending/internal/" * 10,
        "GATTACA" * 100,
        "\n".join(["Lending2024Desk" * 5] * 3),
        "0123456789" * 50,
        "Write `data:image/png;base64,iVBORw0KGgo=` for an inline image.",
        "The data: three tables, and/or more; base64, and so on. " * 20,
        "metadata:text/plain;base64," + "A" * 300,
        "A" * 5_000,
        "https://example.org/data:" + "x" * 500,
    ],
)
def test_other_text_stays(text: str) -> None:
    assert without_inline_data(text) == (text, 0)


def test_every_document_loses_its_inline_data() -> None:
    """Also those of applications, SQL and JSON lines: an image of 270 kB cost 1,830 chunks."""
    text = f"The reading room.\n\n![plan](data:image/png;base64,{BASE64})\n\nLockers."
    document = Document.from_json({"id": 1, "text": text}, max_bytes=MAX_BYTES)
    assert document.text == "The reading room.\n\n![plan]()\n\nLockers."


@pytest.mark.parametrize("place", [SLICE_CHARACTERS - 2, 2 * SLICE_CHARACTERS - 4])
def test_an_address_is_found_where_two_slices_of_the_text_meet(place: int) -> None:
    text = "a " * (place // 2)
    assert without_inline_data(f"{text}data:image/png;base64,{BASE64}")[0] == text


def test_looking_for_addresses_copies_no_large_text() -> None:
    """A copy in lower case took six times the text, as Python makes it of characters of four bytes."""
    text = "An account – with dashes. " * 200_000
    tracemalloc.start()
    without_inline_data(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * sys.getsizeof(text)


@pytest.mark.parametrize(
    "piece",
    ["data:", "data:a/b,", "data:a/b;base64,", '"data:image/svg+xml,<svg ', "data:image/png;base64,AAAA\n",
     "data:a/b;a=b;a=b", "data:" + "a" * 59 + "/"],
)  # fmt: skip
def test_removal_takes_linear_time(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    start = time.process_time()
    without_inline_data(text)
    assert time.process_time() - start < 2
