"""Files are read as what they are: by mark, as UTF-8, as declared, else as a detector finds; the rest is told."""

import json
from pathlib import Path

import pytest

from tests.fixtures.folders import MAX_BYTES, documents, written
from worker.protocols import Skipped
from worker.sources.encodings import decode
from worker.sources.files import Guessed, Replaced, read

GERMAN = "Die Jahresgebühr beträgt fünf Euro – für Schüler nichts."
JAPANESE = "図書館は月曜日を除いて毎日開いています。①"
RUSSIAN = "Библиотека открыта каждый день, кроме понедельника."
CHINESE = "图书馆每天开放，星期一除外。"


def remarks(*paths: Path) -> list[Skipped]:
    return [item for item in read(paths, max_bytes=MAX_BYTES) if isinstance(item, Skipped)]


@pytest.mark.parametrize(
    "declaration",
    [
        '<meta charset="{}">',
        "<META CHARSET={}>",
        "<meta charset='{}' />",
        '<meta http-equiv="Content-Type" content="text/html; charset={}">',
        "<meta content='text/html;charset=\"{}\"' http-equiv=content-type>",
        '<!-- <meta charset="koi8-r"> --><meta name="description" content="charset=koi8-r"><meta charset="{}">',
        "<script>var a = '<meta charset=koi8-r>';</script>" + " " * 3_000 + '<meta charset="{}">',
    ],
)
@pytest.mark.parametrize(
    ("label", "encoding", "text"),
    [
        ("windows-1252", "cp1252", GERMAN),
        ("iso-8859-1", "cp1252", GERMAN),  # browsers read this label as windows-1252
        ("Latin1", "cp1252", GERMAN),
        ("shift_jis", "cp932", JAPANESE),
        ("x-sjis", "cp932", JAPANESE),
        ("gb2312", "gb18030", CHINESE),
        ("windows-1251", "cp1251", RUSSIAN),
        ("koi8-u", "koi8-u", RUSSIAN),
        ("macintosh", "mac-roman", GERMAN),
        ("iso-2022-jp", "iso2022_jp", JAPANESE[:-1]),
    ],
)
def test_page_is_read_as_it_declares(
    tmp_path: Path, declaration: str, label: str, encoding: str, text: str
) -> None:
    page = f"<html><head>{declaration.format(label)}<title>{text}</title></head><body><p>{text}</p></body></html>"
    file = written(tmp_path, "a.html", page.encode(encoding))
    assert documents(file) == [{"id": "a.html", "text": text, "title": text}]
    assert remarks(file) == []


def test_xml_declaration_counts(tmp_path: Path) -> None:
    page = f'<?xml version="1.0" encoding="ISO-8859-2"?>\n<html><body><p>Książka</p>{"<p>x</p>" * 20}</body></html>'
    assert documents(written(tmp_path, "a.html", page.encode("iso8859-2")))[0]["text"].startswith("Książka")


@pytest.mark.parametrize("label", ["windows-1252", "utf-16", "no-such-encoding", "", "koi8-r"])
def test_utf8_wins_over_another_declaration(tmp_path: Path, label: str) -> None:
    file = written(tmp_path, "a.html", f'<meta charset="{label}"><p>{GERMAN}</p>')
    assert documents(file)[0]["text"] == GERMAN
    assert remarks(file) == []


def test_wrong_declaration_gives_way_to_the_detector(tmp_path: Path) -> None:
    file = written(tmp_path, "a.html", f'<meta charset="utf-8"><p>{GERMAN}</p>'.encode("cp1252"))
    assert documents(file)[0]["text"] == GERMAN
    assert [type(item) for item in remarks(file)] == [Guessed]


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"],
)
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.rst", "a.html", "a.jsonl"])
def test_every_unicode_is_read_in_every_kind_of_file(tmp_path: Path, name: str, encoding: str) -> None:
    text = f"Old words: {GERMAN}"
    lines = {
        "a.html": ["<html><body>", f"<p>{text}</p>"],
        "a.jsonl": [json.dumps({"id": n, "text": text}, ensure_ascii=False) for n in "ab"],
    }
    content = "\r\n".join([*lines.get(name, [text]), ""])
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    found = documents(written(tmp_path, name, (mark + content).encode(encoding)))
    assert {document["text"].strip() for document in found} == {text}
    assert len(found) == (2 if name == "a.jsonl" else 1)
    assert remarks(tmp_path / name) == []


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Un café à Liège, déjà vu.", "cp1252"),
        ("caf\xe9 noir", "cp1252"),
        ("Öffnungszeiten: täglich außer montags.", "cp1252"),
        ("He said “renewal” – and left.", "cp1252"),
        ("Vi åker till Malmö på lördag för att träffa våra vänner.", "cp1252"),
        ("Knihovna je otevřena každý den kromě pondělí. Kniha může být vypůjčena.", "cp1250"),
        ("Слова в другой кодировке.", "cp1251"),
        ("Слова в другой кодировке.", "koi8-r"),
        ("הספרייה פתוחה בכל יום מלבד יום שני.", "cp1255"),
        (JAPANESE, "cp932"),
        (JAPANESE[:-1], "euc_jp"),
        (JAPANESE[:-1], "iso2022_jp"),
        (CHINESE, "gb18030"),
        ("圖書館每天開放，星期一除外。", "big5"),
        ("도서관은 월요일을 제외하고 매일 열려 있습니다.", "cp949"),
        ("Words in UTF-16 without a mark.", "utf-16-le"),
        ("Words in UTF-16 without a mark.", "utf-16-be"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_detector_finds_what_nothing_states_and_says_so(
    tmp_path: Path, text: str, encoding: str, name: str
) -> None:
    if name == "a.jsonl" and encoding == "iso2022_jp":
        pytest.skip("its escapes are no JSON")
    line = json.dumps({"id": 1, "text": text}, ensure_ascii=False) if name == "a.jsonl" else text
    file = written(tmp_path, name, line.encode(encoding))
    assert documents(file)[0]["text"] == text
    [remark] = remarks(file)
    assert isinstance(remark, Guessed)
    assert str(remark).startswith(f"{file}: is read as ")


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html"])
def test_utf8_with_faults_stays_utf8_and_they_are_counted(tmp_path: Path, name: str) -> None:
    broken = f"<p>{GERMAN} {GERMAN}".encode() + b" \xff \xe2\x82 end.</p>"
    file = written(tmp_path, name, broken)
    assert documents(file)[0]["text"].removesuffix("</p>").endswith("nichts. \ufffd \ufffd end.")
    [remark] = remarks(file)
    assert isinstance(remark, Replaced)
    assert "is not UTF-8 in 2 places" in remark.reason


def test_replacement_characters_of_the_author_are_not_counted(tmp_path: Path) -> None:
    for name, encoding in {"a.txt": "utf-8", "b.txt": "utf-16"}.items():
        written(tmp_path, name, "A replacement, \ufffd, of the author.".encode(encoding))
    assert remarks(tmp_path) == []


def test_one_bad_line_of_json_is_replaced_alone(tmp_path: Path) -> None:
    good = json.dumps({"id": "good", "text": GERMAN}, ensure_ascii=False).encode()
    bad = b'{"id": "bad", "text": "caf\xe9 noir"}'
    file = written(tmp_path, "a.jsonl", b"\n".join([good, bad, good.replace(b"good", b"next")]))
    assert [document["text"] for document in documents(file)] == [GERMAN, "caf\ufffd noir", GERMAN]
    [remark] = remarks(file)
    assert isinstance(remark, Replaced)
    assert remark.path == f"{file}:2"


def test_lines_of_a_file_have_the_encoding_of_all_of_them(tmp_path: Path) -> None:
    """A short line alone could be anything."""
    texts = [RUSSIAN, "ёж", "plain", RUSSIAN[:9]]
    lines = [
        json.dumps({"id": n, "text": text}, ensure_ascii=False).encode("cp1251")
        for n, text in enumerate(texts)
    ]
    assert [
        document["text"] for document in documents(written(tmp_path, "a.jsonl", b"\r".join(lines)))
    ] == texts


def test_a_place_that_a_declared_encoding_lacks_is_counted(tmp_path: Path) -> None:
    page = f'<meta charset="windows-1252"><p>{GERMAN}'.encode("cp1252") + b" \x81.</p>"
    file = written(tmp_path, "a.html", page)
    assert documents(file)[0]["text"] == f"{GERMAN} \ufffd."
    assert "is not windows-1252 in 1 places" in str(remarks(file)[0])


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xfe\xff", b"\xff\xfe\x00\x00", b"\x00", b"\xef\xbb\xbf", b"\x1b$"]
)
def test_every_few_bytes_are_decoded(data: bytes) -> None:
    assert decode(data, "shift_jis").text is not None
