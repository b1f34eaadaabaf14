"""Chunks follow the structure of Markdown, reStructuredText and HTML, and carry the headings above them."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.chunking import chunk, embedding_title
from worker.chunking.structure import blocks
from worker.chunking.units import breaks
from worker.documents import Chunk, Document, digest, embedding_text
from worker.tokens import counter

COUNT = counter("cl100k_base")
PROSE = "The worker takes a document from the queue and cuts it into chunks before it asks for vectors. "

MARKDOWN = (
    f"# Guide\n\n{PROSE}\n\n## Install\n\n{PROSE}\n\n### On Linux\n\n{PROSE * 12}\n\n## Use\n\n{PROSE * 12}\n"
)
RST = (
    f"=====\nGuide\n=====\n\n{PROSE}\n\nInstall\n=======\n\n{PROSE}\n\nOn Linux\n--------\n\n{PROSE * 12}\n\n"
    f"Use\n===\n\n{PROSE * 12}\n"
)
HTML = (
    f"<h1>Guide</h1><p>{PROSE}</p><h2 class='a'>Install</h2><p>{PROSE}</p><h3>On <em>Linux</em></h3><p>{PROSE * 12}</p>"
    f"\n<h2>Use</h2>\n<p>{PROSE * 12}</p>"
)
FORMATS = {"markdown": MARKDOWN, "rst": RST, "html": HTML}


def cut(text: str, *, title: str = "", size: int = 80) -> list[Chunk]:
    return chunk(text, title=title, chunk_tokens=size, token_limit=8_191, count=COUNT, sections=True)


def headings(text: str) -> list[tuple[int, str]]:
    return [(block.level, block.title) for block in blocks(text) if block.level is not None]


@pytest.mark.parametrize("name", FORMATS)
def test_headings_of_each_format_are_found_with_their_levels(name: str) -> None:
    levels, titles = zip(*headings(FORMATS[name]), strict=True)
    assert titles == ("Guide", "Install", "On Linux", "Use")
    assert levels[0] < levels[1] == levels[3] < levels[2]


@pytest.mark.parametrize("name", FORMATS)
def test_a_chunk_carries_the_two_nearest_headings_above_its_start(name: str) -> None:
    inside = [item for item in cut(FORMATS[name]) if "On Linux" not in item.text and "Linux" in item.heading]
    assert len(inside) >= 2
    assert {item.heading for item in inside} == {"Install > On Linux"}
    assert {item.heading for item in cut(FORMATS[name]) if "Use" in item.heading} == {"Guide > Use"}


@pytest.mark.parametrize("name", FORMATS)
def test_no_chunk_ends_with_a_heading(name: str) -> None:
    for item in cut(FORMATS[name]):
        last = item.text.splitlines()[-1]
        assert not any(
            title in last[-12:] for title in ("Guide", "Install", "Linux", "Use", "</h2>", "</h3>")
        )


def test_a_chunk_that_starts_with_a_heading_has_only_the_title() -> None:
    """Its own heading tells its place, and an edit of a heading should embed few chunks again."""
    text = "".join(f"{'#' * level} Part {level}\n\n{PROSE * 3}\n\n" for level in (1, 2, 3))
    assert [(item.text[:10], item.heading) for item in cut(text, title="Manual")] == [
        ("# Part 1\n\n", "Manual"),
        ("## Part 2\n", "Manual"),
        ("### Part 3", "Manual"),
    ]


def test_a_heading_is_counted_and_hashed_but_not_quoted() -> None:
    found = cut(MARKDOWN, title="Manual")
    item = next(item for item in found if "Linux" in item.heading)
    assert item.heading == "Manual\nInstall > On Linux"
    assert item.text == MARKDOWN[item.start : item.end]
    assert item.tokens == COUNT(embedding_text("", item.heading, item.text))
    assert item.hash == digest(embedding_text("", item.heading, item.text))


def test_a_heading_in_the_title_is_not_repeated() -> None:
    found = cut(MARKDOWN.replace("## Install", "## Install the Guide"), title="install the guide")
    assert "install the guide\nOn Linux" in {item.heading for item in found}


@pytest.mark.parametrize(
    ("title", "said"),
    [("Indexing guide", False), ("The C language", False), ("Index: a guide", True), ("the INDEX", True)],
)
def test_a_title_contains_a_heading_by_words_and_not_by_letters(title: str, said: bool) -> None:
    heading = "C++" if "C " in title else "Index"
    text = f"# {heading}\n\n{PROSE * 12}"
    assert cut(text, title=title)[-1].heading == (title if said else f"{title}\n{heading}")


@pytest.mark.parametrize(
    "text",
    [
        "- item\n---\nmore", "> quoted\n---\nmore", "| a | b |\n---\n", "a | b\n--- | ---\n1 | 2\n",
        "---\ntitle: A\ndate: B\n---\n\ntext", "text\n\n---\n\ntext", "Two lines\nof text\n---\nmore",
        "- item\n\n  ```python\n  # no heading\n\n  x = 1\n  ```\n", "text\n\n    # no heading\n    code\n",
        "+---+---+\n| a | b |\n+---+---+\n", "--- a/file\n+++ b/file\n", "-- \nA name\n", "#tag\n", "####### seven\n",
    ],
)  # fmt: skip
def test_rules_tables_front_matter_and_code_are_not_headings(text: str) -> None:
    assert headings(f"{text}\n\n{PROSE}") == []


@pytest.mark.parametrize(
    ("line", "title"),
    [("## About C#", "About C#"), ("## Closed ##", "Closed"), ("## Windows\r", "Windows")],
)
def test_only_marks_after_a_blank_close_a_heading(line: str, title: str) -> None:
    assert headings(f"{line}\n\n{PROSE}") == [(2, title)]


def test_title_and_headings_take_at_most_a_quarter_of_the_limit() -> None:
    """Even with very long titles, the string that is sent is within the limit."""
    text = f"# {'long ' * 50}\n\n## {'words ' * 45}\n\n{PROSE * 40}"
    title = embedding_title("a title " * 40, token_limit=200, count=COUNT)
    found = chunk(text, title=title, chunk_tokens=200, token_limit=200, count=COUNT, sections=True)
    assert all(COUNT(item.heading) <= 50 and item.tokens <= 200 for item in found)


@pytest.mark.parametrize(
    "code",
    [
        "```python\n{}\n```",
        "~~~\n{}\n~~~",
        "Like this::\n\n    {}",
        ".. code-block:: python\n   :linenos:\n\n   {}",
        "<pre class='x'>\n{}\n</pre>",
    ],
    ids=["fence", "tildes", "literal", "directive", "pre"],
)
def test_a_code_block_that_fits_is_one_chunk_without_headings(code: str) -> None:
    lines = ["def run():", "", "# no heading", "", *[f"    step({number})" for number in range(25)]]
    indent = "\n    " if "Like" in code else "\n   " if "linenos" in code else "\n"
    block = code.format(indent.join(lines))
    text = "\n\n".join([PROSE * 3, block, *[PROSE] * 6])
    assert headings(text) == []
    assert any("def run():" in item.text and "step(24)" in item.text for item in cut(text, size=250))


def test_an_unclosed_fence_is_text_and_hides_no_heading() -> None:
    text = f"```\ncode\n\n{PROSE}\n\n## Later\n\n{PROSE}\n\n```python\nmore()\n```\n\n## Last\n\n{PROSE}"
    assert [title for _, title in headings(text)] == ["Later", "Last"]


def test_a_long_list_is_cut_between_its_items_and_a_table_between_its_rows() -> None:
    text = "\n".join(f"- item {number}. It has two sentences\n  and goes on here" for number in range(60))
    assert all(item.text.startswith("- item") and item.text.endswith("on here") for item in cut(text))
    text = "\n".join(f"| row {number} | a cell. Another one |" for number in range(60))
    assert all(item.text.startswith("| row") and item.text.endswith("one |") for item in cut(text))


def test_a_wrapped_paragraph_is_cut_between_sentences() -> None:
    text = "\n".join((PROSE * 30).split(". ")[:30]).replace("the ", "the\n") + "."
    text = "".join(f"This is sentence {number} of a\nparagraph that goes on. " for number in range(40))
    assert all(item.text.startswith("This") and item.text.endswith("on.") for item in cut(text))


@pytest.mark.parametrize(
    ("cluster", "inside"),
    [
        ("👩‍👩‍👧‍👦", range(1, 7)),
        ("👍🏽", [1]),
        ("e\u0301\u0302", [1, 2]),
        ("\r\n", [1]),
        ("🇩🇪", [1]),
        ("\u1112\u1161\u11ab", [1, 2]),
        ("\uac00\u11a8", [1]),
        ("क्ष", [1, 2]),
        ("❤️", [1]),
    ],
)
def test_no_break_is_inside_a_grapheme_cluster(cluster: str, inside: list[int]) -> None:
    text = f"x{cluster}y"
    assert [at for at in range(1, len(text)) if not breaks(text, at)] == [at + 1 for at in inside]


def test_two_flags_break_between_them() -> None:
    text = "🇩🇪🇫🇷🇮🇹"
    assert [at for at in range(1, 6) if breaks(text, at)] == [2, 4]


@settings(max_examples=60, deadline=None)
@given(
    clusters=st.lists(
        st.sampled_from(["👩‍👩‍👧‍👦", "👍🏽", "e\u0301", "🇩🇪", "\u1112\u1161\u11ab", "a", "日", "क्ष", "❤️"]),
        min_size=1,
        max_size=120,
    ),
    size=st.integers(40, 90),
)
def test_no_chunk_starts_or_ends_inside_a_cluster_that_fits(clusters: list[str], size: int) -> None:
    text = "".join(clusters)
    ends = set(itertools.accumulate(map(len, clusters)))
    for name in ("cl100k_base", "estimate"):
        found = chunk(text, chunk_tokens=size, token_limit=200, count=counter(name))
        assert {item.end for item in found} <= ends


def test_the_metadata_key_important_is_read() -> None:
    def important(value: object) -> tuple[str, ...]:
        return Document(id="1", text="x", metadata={"important": value}).important

    assert important("one") == ("one",)
    assert important(["one", 2, "two"]) == ("one", "two")
    assert important(True) == important({"a": 1}) == Document(id="1", text="x").important == ()


def test_important_strings_follow_the_title_each_on_its_own_line() -> None:
    assert embedding_title("A\ntitle", "", "  a  field ", token_limit=400, count=COUNT) == "A title\na field"
