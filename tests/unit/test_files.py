"""Files and folders become documents. Unreadable ones are skipped with one sentence each."""

import json
import os
import random
import time
import tracemalloc
from pathlib import Path

import pytest

from tests.fixtures.folders import MAX_BYTES, documents, skipped, written
from worker.documents import Document
from worker.errors import InvalidQuery
from worker.protocols import Skipped
from worker.sources.files import FolderSource, PassedOver, read


def test_folder_is_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "sub/c.rst", ".hidden.txt", ".git/d.txt", "sub/.e.txt"):
        written(tmp_path, name, "text")
    assert [document["id"] for document in documents(tmp_path)] == ["a.md", "b.txt", "sub/c.rst"]
    assert skipped(tmp_path) == []


def test_named_file_has_its_name_as_id(tmp_path: Path) -> None:
    assert documents(written(tmp_path, "deep/down/a.txt", "text")) == [
        {"id": "a.txt", "text": "text", "title": "a"}
    ]


def test_every_item_is_a_valid_document(tmp_path: Path) -> None:
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
def test_title_comes_from_the_document_else_from_the_file_name(
    tmp_path: Path, name: str, text: str, title: str
) -> None:
    assert documents(written(tmp_path, name, text))[0]["title"] == title


def test_html_becomes_lines_and_paragraphs(tmp_path: Path) -> None:
    page = """<html><head><title>T</title><style>p {}</style></head><body><script>alert(1)</script>
      <h1>Head</h1><div><p>One <b>bold</b>,
      two&nbsp;&lt;3.</p>tail<br>line</div><ul><li>first</li><li>second</li></ul>
      <table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
      <pre>def f():\n    return <i>1</i>\n</pre><p>end<template>no</template></p></body></html>"""
    blocks = documents(written(tmp_path, "a.html", page))[0]["text"].split("\n\n")
    assert blocks[:4] == ["Head", "One bold, two <3.", "tail\nline", "first\nsecond"]
    assert blocks[4:] == ["a b\n1 2", "def f():\n    return 1", "end"]


def test_broken_deep_or_empty_html_is_a_document(tmp_path: Path) -> None:
    written(tmp_path, "a.html", "<p>open <b>tag <div>x</p> <pre>a <pre>b")
    written(tmp_path, "b.html", "<div>" * 5_000 + "deep")
    written(tmp_path, "c.html", "")
    texts = [document["text"] for document in documents(tmp_path)]
    assert texts[0].split() == ["open", "tag", "x", "a", "b"]
    assert texts[1:] == ["deep", ""]


def test_bad_json_line_is_skipped_with_its_number(tmp_path: Path) -> None:
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


def test_unreadable_file_is_skipped_with_a_reason(tmp_path: Path) -> None:
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
def test_file_or_folder_without_permission_is_skipped_with_a_reason(tmp_path: Path) -> None:
    written(tmp_path, "a.txt", "x").chmod(0)
    written(tmp_path, "sub/b.txt", "x").parent.chmod(0)
    assert [line.partition(": ")[2] for line in skipped(tmp_path)] == [
        "cannot be read: Permission denied"
    ] * 2
    (tmp_path / "sub").chmod(0o700)


def test_second_file_of_one_id_is_skipped_with_a_reason(tmp_path: Path) -> None:
    for name in ("one/a.txt", "two/a.txt"):
        written(tmp_path, name, name)
    assert [document["text"] for document in documents(tmp_path / "one", tmp_path / "two")] == ["one/a.txt"]
    assert "index their common folder" in skipped(tmp_path / "one", tmp_path / "two")[0]


def test_missing_path_fails_before_reading(tmp_path: Path) -> None:
    written(tmp_path, "a.txt", "x")
    with pytest.raises(InvalidQuery, match=r"no/where does not exist; name files or folders"):
        read([tmp_path, Path("no/where")], max_bytes=MAX_BYTES)


def test_undecodable_file_name_gives_a_valid_id(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("x")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    assert [document["id"] for document in documents(tmp_path)] == ["caf\ufffd.txt"]


@pytest.mark.parametrize("name", ["a.md", "a.rst", "a.html"])
@pytest.mark.parametrize(
    "piece",
    ["a", "# ", "=", "~", " ", "<p>", "```\n", "a: ", "<div>", "<div>x", "<ul><li>x", "<i><div>", "<pre>x", "<a",
     "<table><td>", "<svg><g>", "<form><div>", "</div>", "&lt;"],
)  # fmt: skip
def test_parsing_time_is_linear(tmp_path: Path, name: str, piece: str) -> None:
    file = written(tmp_path, name, "# " + piece * (90_000 // len(piece)))
    start = time.process_time()
    assert len(documents(file)) == 1
    assert time.process_time() - start < 1


@pytest.mark.slow
def test_large_jsonl_file_is_streamed(tmp_path: Path) -> None:
    """Given 20 MB of lines, the last of them over the limit, memory holds only a few lines."""
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


def test_a_tag_of_many_attributes_is_read_in_linear_time(tmp_path: Path) -> None:
    attributes = " ".join(f"a{n}=1" for n in range(9_000))
    file = written(tmp_path, "a.html", f"<p {attributes}>Some text.</p>")
    start = time.process_time()
    assert documents(file)[0]["text"] == "Some text."
    assert time.process_time() - start < 0.5


def test_text_of_deeply_nested_elements_is_kept(tmp_path: Path) -> None:
    file = written(
        tmp_path, "a.html", "<p>first</p>" + "<div>" * 2_000 + "deep" + "</div>" * 2_000 + "<p>last</p>"
    )
    assert documents(file)[0]["text"].split() == ["first", "deep", "last"]


def test_a_long_list_without_end_tags_keeps_its_lines(tmp_path: Path) -> None:
    file = written(tmp_path, "a.html", "<ul>" + "".join(f"<li>item {n}" for n in range(2_000)) + "</ul>")
    assert documents(file)[0]["text"].splitlines() == [f"item {n}" for n in range(2_000)]


def test_a_link_out_of_the_folder_is_passed_over_and_named(tmp_path: Path) -> None:
    secret = written(tmp_path, "secret/key.txt", "The key is 42.")
    folder = written(tmp_path, "folder/a.txt", "A text.").parent
    written(tmp_path, "folder/.hidden.txt", "Hidden.")
    for name, target in {
        "absolute.txt": secret,
        "relative.txt": Path("../secret/key.txt"),
        "kernel.txt": Path("/proc/self/environ"),
        "hidden.txt": folder / ".hidden.txt",
        "chain.txt": folder / "absolute.txt",
        "circle.txt": folder / "circle.txt",
        "beside": secret.parent,
    }.items():
        (folder / name).symlink_to(target)
    (folder / "inside.md").symlink_to("a.txt")
    assert {document["id"]: document["text"] for document in documents(folder)} == {
        "a.txt": "A text.",
        "inside.md": "A text.",
    }
    reasons = {Path(line.partition(":")[0]).name: line.partition(": ")[2] for line in skipped(folder)}
    assert all(
        "outside the folder" in reasons[f"{name}.txt"] for name in ("absolute", "relative", "kernel", "chain")
    )
    assert reasons["hidden.txt"] == "is a link to a hidden file"
    assert reasons["circle.txt"] == "is no regular file"
    assert "is a link to a folder" in reasons["beside"]
    assert documents(folder / "absolute.txt")[0]["text"] == "The key is 42."  # named by the user


@pytest.mark.parametrize(
    "content",
    [
        random.Random(1).randbytes(5_000),
        b"%PDF-1.7\n" + b"1 0 obj stream of plain words endobj\n" * 50,
        b"PK\x03\x04" + b"name.xml" * 100,
        bytes(1_000),
    ],
)
def test_data_that_are_no_text_are_skipped_with_a_reason(tmp_path: Path, content: bytes) -> None:
    file = written(tmp_path, "a.txt", content)
    assert documents(file) == []
    assert "is no text in an encoding that can be told" in skipped(file)[0]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.pdf", "pdftotext a.pdf a.txt"),
        ("b.csv", "one object with id and text per line"),
        ("c.json", "one with id and text per line"),
        ("d.docx", "pandoc d -o d.md"),
        ("LICENSE", "rename it to .txt"),
    ],
)
def test_a_file_of_another_kind_is_named_with_advice(tmp_path: Path, name: str, advice: str) -> None:
    file = written(tmp_path, name, "x")
    for paths in ([tmp_path], [file]):
        [item] = read(paths, max_bytes=MAX_BYTES)
        assert isinstance(item, Skipped)
        assert isinstance(item, PassedOver) == (paths == [tmp_path])
        assert item.path == str(file)
        assert advice in item.reason


def test_a_folder_source_names_what_it_passes_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path, "a.txt", "Un café.".encode("latin-1"))
    written(tmp_path, "b.pdf", "x")
    written(tmp_path, "c.txt", "Zwölf Bücher, äöü, ".encode() + b"\xff.")
    source = FolderSource(paths=[str(tmp_path)], max_bytes=MAX_BYTES)
    assert len(list(source.documents())) == 2
    fields = {record.msg: vars(record)["fields"] for record in caplog.records}
    assert fields["files_passed_over"] == {"files": 1, "names": [str(tmp_path / "b.pdf")]}
    assert fields["encoding_guessed"]["file"] == str(tmp_path / "a.txt")
    assert fields["bytes_replaced"]["file"] == str(tmp_path / "c.txt")


def test_a_long_title_of_a_file_is_cut(tmp_path: Path) -> None:
    assert (
        documents(written(tmp_path, "a.html", f"<title>{'x' * 5_000}</title><p>Text."))[0]["title"]
        == "x" * 2_000
    )
