"""Files and folders become documents; what cannot is said, one sentence each, and stops nothing."""

import json
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from worker.documents import Document
from worker.errors import InvalidQuery
from worker.protocols import Skipped
from worker.sources.files import read

MAX_BYTES = 100_000


def documents(*paths: Path) -> list[dict[str, Any]]:
    return [item for item in read(paths, max_bytes=MAX_BYTES) if not isinstance(item, Skipped)]


def skipped(*paths: Path) -> list[str]:
    return [str(item) for item in read(paths, max_bytes=MAX_BYTES) if isinstance(item, Skipped)]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_a_folder_is_read_in_order_with_its_subfolders_and_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "sub/c.rst", ".hidden.txt", ".git/d.txt", "sub/.e.txt"):
        written(tmp_path, name, "text")
    assert [document["id"] for document in documents(tmp_path)] == ["a.md", "b.txt", "sub/c.rst"]
    assert skipped(tmp_path) == []


def test_a_file_that_is_named_has_its_name_as_id(tmp_path: Path) -> None:
    assert documents(written(tmp_path, "deep/down/a.txt", "text")) == [
        {"id": "a.txt", "text": "text", "title": "a"}
    ]


def test_whatever_is_read_is_a_document_for_the_task(tmp_path: Path) -> None:
    for name in ("a.txt", "b.md", "c.html"):
        written(tmp_path, name, "<h1>\x00some\x00</h1> text")
    written(tmp_path, "d.jsonl", '{"id": 7, "text": "t", "metadata": {"a": 1}, "version": 3}')
    read_back = [Document.from_json(document, max_bytes=MAX_BYTES) for document in documents(tmp_path)]
    assert [document.id for document in read_back] == ["a.txt", "b.md", "c.html", "7"]


@pytest.mark.parametrize(
    ("name", "text", "title"),
    [
        ("plain.txt", "# not a heading", "plain"),
        ("only.md", "some words\n\n# The *Title* #\n\n## part\n", "The *Title*"),
        ("first.md", "# Title\n\ntext\n\n# Another\n", "Title"),
        ("sections.md", "- Feature: x\n\n# Summary\n\ntext\n\n# Motivation\n", "sections"),
        ("setext.md", "Title here\n==========\n\ntext", "Title here"),
        ("fence.md", "text\n\n```sh\n# install\n```\n", "fence"),
        ("matter.md", '---\ntitle: "From the front"\nlayout: page\n---\n\n# Summary\n', "From the front"),
        (
            "pep.rst",
            "PEP: 1\nTitle: Long and\n  folded\nStatus: Final\n\nAbstract\n========\n",
            "Long and folded",
        ),
        ("under.rst", ".. _label:\n\nThe title\n---------\n\ntext\n\nMore\n----\n", "The title"),
        ("over.rst", "=======\n Title\n=======\n\ntext", "Title"),
        ("short.rst", "a line of text, and an ellipsis\n...\n", "short"),
        (
            "page.html",
            "<html><head><title>The\n page</title></head><body><h1>Head</h1></body></html>",
            "The page",
        ),
        ("head.htm", "<h1>Head <i>line</i></h1><p>text</p>", "Head line"),
        ("none.html", "<p>text</p>", "none"),
    ],
)
def test_the_title_is_the_documents_own_else_the_files_name(
    tmp_path: Path, name: str, text: str, title: str
) -> None:
    assert documents(written(tmp_path, name, text))[0]["title"] == title


def test_html_becomes_text_with_a_line_per_item_and_an_empty_line_between_blocks(tmp_path: Path) -> None:
    page = """<html><head><title>T</title><style>p {}</style></head><body><script>alert(1)</script>
      <h1>Head</h1><div><p>One <b>bold</b>,
      two&nbsp;&lt;3.</p>tail<br>line</div><ul><li>first</li><li>second</li></ul>
      <table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
      <pre>def f():\n    return <i>1</i>\n</pre><p>end<template>no</template></p></body></html>"""
    blocks = documents(written(tmp_path, "a.html", page))[0]["text"].split("\n\n")
    assert blocks[:4] == ["Head", "One bold, two <3.", "tail\nline", "first\nsecond"]
    assert blocks[4:] == ["a b\n1 2", "def f():\n    return 1", "end"]


def test_html_that_is_broken_deep_or_empty_is_still_a_document(tmp_path: Path) -> None:
    written(tmp_path, "a.html", "<p>open <b>tag <div>x</p> <pre>a <pre>b")
    written(tmp_path, "b.html", "<div>" * 5_000 + "deep")
    written(tmp_path, "c.html", "")
    texts = [document["text"] for document in documents(tmp_path)]
    assert texts[0].split() == ["open", "tag", "x", "a", "b"]
    assert texts[1:] == ["deep", ""]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("\ufeffé\r\nb".encode(), "é\nb"),
        ("é".encode("utf-16"), "é"),
        ("caf\xe9 noir".encode("latin-1"), "caf\ufffd noir"),
    ],
)
def test_bytes_are_utf8_or_marked_utf16_and_others_are_replaced(
    tmp_path: Path, content: bytes, text: str
) -> None:
    assert documents(written(tmp_path, "a.txt", content))[0]["text"] == text


def test_a_line_of_json_lines_is_a_document_and_a_bad_one_is_named_by_its_number(tmp_path: Path) -> None:
    lines = [
        '{"id": 1, "text": "one"}',
        "",
        "{broken",
        '{"text": "no id"}',
        '"text"',
        "[" * 100_000,
        '{"id": "z", "text": "last"}',
    ]
    file = written(tmp_path, "a.jsonl", "\n".join(lines))
    assert [document["id"] for document in documents(file)] == [1, "z"]
    assert [line.removeprefix(str(file)).partition(" ")[0] for line in skipped(file)] == [
        ":3:",
        ":4:",
        ":5:",
        ":6:",
    ]
    assert "column 2" in skipped(file)[0]
    assert "id is missing" in skipped(file)[1]


def test_what_cannot_be_read_is_said_and_the_rest_is_read(tmp_path: Path) -> None:
    written(tmp_path, "a.pdf", "x")
    written(tmp_path, "LICENSE", "x")
    written(tmp_path, "b.txt", "x" * (MAX_BYTES + 1))
    (tmp_path / "c.txt").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "d.txt")
    written(tmp_path, "z.txt", "fine")
    assert [document["id"] for document in documents(tmp_path)] == ["z.txt"]
    license, pdf, large, link, pipe = skipped(tmp_path)
    assert "ending '' is not one of .htm, .html" in license
    assert "ending '.pdf'" in pdf
    assert "100,001 bytes, over MAX_DOCUMENT_BYTES (100,000)" in large
    assert link.endswith("is no regular file")
    assert pipe.endswith("is no regular file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_or_folder_without_permission_is_said(tmp_path: Path) -> None:
    written(tmp_path, "a.txt", "x").chmod(0)
    written(tmp_path, "sub/b.txt", "x").parent.chmod(0)
    assert [line.partition(": ")[2] for line in skipped(tmp_path)] == [
        "cannot be read: Permission denied"
    ] * 2
    (tmp_path / "sub").chmod(0o700)


def test_two_files_of_one_id_do_not_replace_each_other_silently(tmp_path: Path) -> None:
    for name in ("one/a.txt", "two/a.txt"):
        written(tmp_path, name, name)
    assert [document["text"] for document in documents(tmp_path / "one", tmp_path / "two")] == ["one/a.txt"]
    assert "index their common folder" in skipped(tmp_path / "one", tmp_path / "two")[0]


def test_a_path_that_does_not_exist_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    written(tmp_path, "a.txt", "x")
    with pytest.raises(InvalidQuery, match=r"no/where does not exist; name files or folders"):
        read([tmp_path, Path("no/where")], max_bytes=MAX_BYTES)


def test_a_name_that_is_no_text_still_gives_an_id_that_postgres_takes(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("x")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    assert [document["id"] for document in documents(tmp_path)] == ["caf\ufffd.txt"]


@pytest.mark.parametrize("name", ["a.md", "a.rst", "a.html"])
@pytest.mark.parametrize("piece", ["a", "# ", "=", "~", " ", "<p>", "```\n", "a: "])
def test_time_grows_with_the_length_of_a_text_whatever_it_is(tmp_path: Path, name: str, piece: str) -> None:
    file = written(tmp_path, name, "# " + piece * (90_000 // len(piece)))
    start = time.process_time()
    assert len(documents(file)) == 1
    assert time.process_time() - start < 1


def test_a_large_file_of_lines_is_streamed(tmp_path: Path) -> None:
    """20 MB of lines, the last of them over the limit: memory stays at a few lines."""
    file = tmp_path / "a.jsonl"
    with file.open("w") as opened:
        for number in range(200):
            print(json.dumps({"id": number, "text": "x" * 50_000}), file=opened)
        print(json.dumps({"id": "long", "text": "x" * 10_000_000}), file=opened)
        print(json.dumps({"id": "last", "text": "x"}), file=opened)
    tracemalloc.start()
    try:
        ids = [
            item.path if isinstance(item, Skipped) else item["id"]
            for item in read([file], max_bytes=MAX_BYTES)
        ]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ids == [*range(200), f"{file}:201", "last"]
    assert peak < 10_000_000
