"""A title is what the text states as its title: no prose, and no piece of a page that is something else."""

import time
from pathlib import Path

import pytest

from tests.fixtures.folders import documents, written
from worker.sources.titles import MAX_FRONT_MATTER_CHARACTERS, front_matter, markdown_title


@pytest.mark.parametrize(
    ("matter", "title"),
    [
        ("title: >-\n  Lending rules for\n  new readers\nlang: en", "Lending rules for new readers"),
        ("title: |\n  Lending rules\n  for readers", "Lending rules for readers"),
        ('title: "Quoted: \\u00fcber # all"', "Quoted: über # all"),
        ("title: 'It''s here'", "It's here"),
        ("title: Plain # with a comment", "Plain"),
        ("title: Over two\n  lines", "Over two lines"),
        ("title: 2026-11-29", "2026-11-29"),
        ("title: 1.10", "1.10"),
        ("title: yes", "yes"),
        ("title: &t Anchored\nshort: *t", "Anchored"),
        ("a: &t Anchored\ntitle: *t", "Anchored"),
        ("Title: Capital", "Capital"),
        ("{title: Flow, lang: en}", "Flow"),
        ("title: [One, Two]", "One, Two"),
        ("title: Lending: the rules", "Lending: the rules"),
        ("layout: page\ntitle: `ticks` are no YAML", "`ticks` are no YAML"),
        ("title: null", "Heading"),
        ("title: ~", "Heading"),
        ("title:", "Heading"),
        ('title: ""', "Heading"),
        ("title: {a: b}", "Heading"),
        ("lang: en", "Heading"),
        ("seo:\n  title: Inner", "Heading"),
        ("", "Heading"),
        ("# only a comment", "Heading"),
    ],
)
def test_front_matter_is_read_as_yaml(matter: str, title: str) -> None:
    text = "\n".join(filter(None, ["---", matter, "---", "", "# Heading", "", "Text."]))
    assert markdown_title(text) == title


@pytest.mark.parametrize("rule", ["---", "--- ", "---\t"])
@pytest.mark.parametrize("end", ["---", "--- ", "..."])
def test_rules_of_front_matter_may_have_spaces_behind_them(rule: str, end: str) -> None:
    assert markdown_title(f"{rule}\ntitle: Behind spaces\n{end}\n\nText.\n") == "Behind spaces"


def test_front_matter_of_toml_gives_the_title() -> None:
    assert markdown_title('+++\ntitle = "In TOML"\ndate = 2026-11-29\n+++\n\n# Heading\n') == "In TOML"


@pytest.mark.parametrize(
    "text",
    [
        "Title: is a word that a sentence may begin with\nand go on.\n\nMore text.\n",
        "Title: a sentence of one line.\n\nMore text.\n",
        "Some words.\nTitle: a word\nAuthor: another\n\nText.\n",
        "---\n\nTitle: a word between two rules\nof this text.\n\n---\n\nText.\n",
        "---\nNo mapping at all.\n---\n\nText.\n",
        "+++\nno toml\n+++\n\nText.\n",
        "---\ntitle: without an end\n\nText.\n",
    ],
)
def test_prose_is_no_title(text: str, tmp_path: Path) -> None:
    assert documents(written(tmp_path, "name.md", text))[0]["title"] == "name"


def test_header_of_several_fields_gives_the_title() -> None:
    assert markdown_title("Title: My page\nDate: 2026-11-29\nStatus:\n\nText.\n") == "My page"


@pytest.mark.parametrize(
    ("heading", "title"),
    [
        ("# C#", "C#"),
        ("# Closed ##", "Closed"),
        ("   # Indented", "Indented"),
        ("# With an id {#fees .wide}", "With an id"),
        ("# Of a {template}", "Of a {template}"),
        ("#\tTab", "Tab"),
        ("# [Project](https://example.org/) [![Build](b.svg)](https://ci.example.org)", "Project Build"),
        ("# ![](logo.png)\n\n# Behind a picture", "Behind a picture"),
        ("<!--\n# in a comment\n-->\n\n# Outside", "Outside"),
        ("Setext\n  ===", "Setext"),
        ("```\n# a comment\n```\n\n# Behind code", "Behind code"),
    ],
)
def test_first_heading_is_the_title(heading: str, title: str) -> None:
    assert markdown_title(f"{heading}\n\nText.\n") == title


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
@pytest.mark.parametrize("name", ["a.md", "a.rst", "a.txt", "a.html"])
def test_every_end_of_line_ends_a_line(tmp_path: Path, name: str, end: str) -> None:
    head = {"a.md": ["# Old Mac"], "a.rst": ["Old Mac", "======="], "a.html": ["<h1>Old Mac</h1>"]}
    lines = [*head.get(name, ["Old Mac"]), "", "<p>A book may be kept for four weeks.", "", "Five euros.", ""]
    [document] = documents(written(tmp_path, name, end.join(lines)))
    assert document["title"] == ("a" if name == "a.txt" else "Old Mac")
    assert "\r" not in document["text"]


@pytest.mark.parametrize("piece", ["[", "{a: ", "- ", "a: &a [*a]\n", "? ", "a:\n ", "'", "x", "\x00"])
def test_a_large_or_strange_front_matter_costs_little(piece: str) -> None:
    text = "---\n" + piece * (MAX_FRONT_MATTER_CHARACTERS // len(piece) - 10) + "\n---\n\n# Heading\n"
    start = time.process_time()
    front_matter(text)
    assert time.process_time() - start < 5


def test_aliases_of_front_matter_are_not_expanded() -> None:
    levels = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20))
    assert markdown_title(f"---\na0: &a0 [x, x]\n{levels}\ntitle: Small\n---\n") == "Small"
