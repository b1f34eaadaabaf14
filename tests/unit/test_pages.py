"""Of a page, the text that a reader sees is indexed; what else it has is counted."""

import time
from pathlib import Path

import pytest

from tests.fixtures.folders import MAX_BYTES, written
from worker.protocols import LeftOut
from worker.sources.files import WithoutText, read
from worker.sources.pages import read_page
from worker.sources.unseen import HIDDEN, NAVIGATION, without_comments

SECRET = "Words that nobody sees."
BODY = "<p>The library opens on Sundays.</p>"
TEXT = "The library opens on Sundays."


@pytest.mark.parametrize(
    "hidden",
    [
        '<div style="display:none">{}</div>',
        '<div style="color:red; DISPLAY : none !important">{}</div>',
        '<span style="visibility:hidden">{}</span>',
        "<section hidden><p>{}</p></section>",
        '<p hidden="hidden">{}</p>',
        '<div style="font-size:0">{}</div>',
        '<div style="font-size:1px;line-height:1px">{}</div>',
        '<div style="max-height:0px;overflow:hidden">{}</div>',
        '<div style="opacity:0">{}</div>',
        '<div style="position:absolute;left:-9999px">{}</div>',
        '<div style="text-indent:-9999px">{}</div>',
        "<dialog>{}</dialog>",
        '<style>.preheader, .x {{ display: none !important }}</style><div class="a preheader">{}</div>',
        "<style>/* c */ #p {{visibility:hidden}}</style><div id=p>{}</div>",
        "<div popover>{}</div>",
        '<div style="content-visibility: hidden">{}</div>',
        '<p style="transform: scale(0)">{}</p>',
        "<style>@media only screen {{ .off {{display:none}} }}</style><p class=off>{}</p>",
        '<style>@media print {{ p {{ color: red }} }} div.gone{{display:none}}</style><div class="gone">{}</div>',
        "<div style='display:none'><div hidden>{}</div></div>",
    ],
)
def test_hidden_text_is_left_out_and_counted(hidden: str) -> None:
    page = read_page(f"<html><body>{hidden.format(SECRET)}{BODY}</body></html>")
    assert page.text == TEXT
    assert page.left_out == {HIDDEN: len(SECRET)}


@pytest.mark.parametrize(
    "unseen",
    [
        "<script>var a = 'words';</script>", "<style>p { color: red }</style>", "<template><p>words</p></template>",
        "<!-- words -->", "<![if !mso]>", "<iframe>words</iframe>", "<noframes>words</noframes>",
        "<video>words</video>", "<canvas>words</canvas>", "<datalist><option>words</datalist>",
        "<svg><title>words</title><desc>words</desc><metadata>words</metadata><defs><text>words</text></defs></svg>",
        '<math><semantics><annotation encoding="application/x-tex">words</annotation></semantics></math>',
        "<img alt='words' src='data:image/png;base64,AAAA'>", "<noscript>words</noscript>",
    ],
)  # fmt: skip
def test_elements_that_browsers_never_show_are_left_out(unseen: str) -> None:
    assert read_page(f"<html><body>{unseen}{BODY}</body></html>").text == TEXT


@pytest.mark.parametrize(
    "shown",
    [
        '<div style="font-size:0px"><p style="font-size:16px">{}</p></div>',  # as newsletters space their columns
        '<style>.tab{{display:none}} .tab.active{{display:block}}</style><div class="tab">{}</div>',
        "<style>@media print{{.p{{display:none}}}}</style><div class=p>{}</div>",
        "<style>@media only screen and (max-width:600px){{#w{{display:none}}}}</style><div id=w>{}</div>",
        "<style>body{{visibility:hidden}}</style><div>{}</div>",
        "<div style='visibility:hidden'><p style='visibility:visible'>{}</p></div>",
        "<style>.m{{display:none}} @media (max-width:1px){{.m{{display:block}}}}</style><div class=m>{}</div>",
        "<style>.t{{display:none}}</style><div class=t>{}</div><script>show('.t')</script>",
        '<div hidden="until-found">{}</div>', "<dialog open>{}</dialog>", "<details><p>{}</p></details>",
        '<div style="font-size:0.9em">{}</div>', '<div style="opacity:0.5">{}</div>', '<p aria-hidden="true">{}</p>',
        '<div style="max-height:0.5em">{}</div>', "<svg><text>{}</text></svg>",
        '<article><footer>{}</footer></article>', "<header><p>{}</p></header>", "<aside>{}</aside>",
        '<ul class="cookies"><li>{}</ul>', '<div class="cookie-recipes">{}</div>',
    ],
)  # fmt: skip
def test_text_that_a_reader_can_see_stays(shown: str) -> None:
    assert read_page(f"<html><body>{BODY}{shown.format(SECRET)}</body></html>").text.split("\n\n") == [
        TEXT,
        SECRET,
    ]


def test_padding_of_newsletters_is_left_out() -> None:
    page = read_page(f"<body><div>Hello.{'&#847;&zwnj;&nbsp;' * 400}</div>{BODY}</body>")
    assert page.text == f"Hello.\n\n{TEXT}"
    assert page.left_out[HIDDEN] > 800


def test_single_joiners_stay_in_words() -> None:
    assert read_page("<p>می\u200cخواهم 👨\u200d👩\u200d👧").text == "می\u200cخواهم 👨\u200d👩\u200d👧"


@pytest.mark.parametrize(
    "page",
    [
        "<nav>Home About</nav>{}<footer>Imprint</footer>",
        '<div role="navigation">Home</div>{}<div role="contentinfo">Imprint</div>',
        "<header><nav><ul><li>Home</ul></nav></header><div>Banner</div><main>{}</main><aside>See also</aside>",
        '<div>Banner</div><div role="main">{}</div><div>Related</div>',
        "<main hidden>Old</main><main>{}</main>Around",
        '<div id="onetrust-consent-sdk">We use cookies.</div>{}',
        '<div class="x cookie-banner">We use cookies.</div>{}',
        '<div id="CybotCookiebotDialog">We use cookies.</div>{}',
        '<div class="eu-cookie-compliance-banner">We use cookies.</div>{}',
    ],
)
def test_navigation_around_the_text_is_left_out_and_counted(page: str) -> None:
    found = read_page(f"<html><body>{page.format(BODY)}</body></html>")
    assert found.text == TEXT
    assert found.left_out[NAVIGATION] > 0


@pytest.mark.parametrize(
    "page",
    ["<nav><p>{}</p></nav>", "<main></main><p>{}</p>", "<footer>{}</footer>", "<nav>{}</nav><main> </main>"],
)
def test_navigation_stays_where_it_is_all_the_text(page: str) -> None:
    assert read_page(page.format(SECRET)).text == SECRET


@pytest.mark.parametrize("beside", ["", "<div id=root></div><script>start()</script>", "<p>Loading…</p>"])
def test_text_in_noscript_is_read_where_it_is_the_longer_part(beside: str) -> None:
    page = f"<html><body><noscript><p>All the text of this page.</p></noscript>{beside}</body></html>"
    assert read_page(page).text.split("\n\n")[0] == "All the text of this page."


@pytest.mark.parametrize(
    "content", ["", "<div id=root></div><script>start()</script>", "<p hidden>Words.</p>"]
)
def test_page_without_text_is_told(tmp_path: Path, content: str) -> None:
    file = written(tmp_path, "a.html", f"<html><head><title>T</title></head><body>{content}</body></html>")
    [remark] = [item for item in read([file], max_bytes=MAX_BYTES) if isinstance(item, WithoutText)]
    assert "has no text that a reader sees" in str(remark)
    assert ("save the page as a browser shows it" in str(remark)) == ("<script" in content)


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ('<svg viewBox="0 0 1 1"><title>Menu icon</title></svg><h1>Lending rules</h1>', "Lending rules"),
        ("<svg><g><title>Menu</title></g></svg><title>The page</title><h1>Head</h1>", "The page"),
        ("<head><title></title></head><h1>Lending rules</h1>", "Lending rules"),
        ("<head><title> \n </title></head><h1><img alt=Logo></h1><h1>Second</h1>", "Second"),
        ("<h1><svg><title>Icon</title></svg> Words</h1>", "Words"),
        ("<h1 hidden>Hidden</h1><h1>Seen</h1>", "Seen"),
        ("<nav><h1>Site</h1></nav><h1>Page</h1>", "Page"),
        ("<template><title>No</title></template><p>text</p>", ""),
    ],
)
def test_title_is_that_of_the_page(page: str, title: str) -> None:
    assert read_page(page).title == title


def test_comments_of_markdown_are_left_out_outside_code(tmp_path: Path) -> None:
    text = "# T\n\n<!-- a\nb -->\nText with `<!--` in it.\n\n```\n<!-- code -->\n```\n\n<!-- open"
    assert without_comments(text) == (text.replace("<!-- a\nb -->", ""), len("<!-- a\nb -->"))
    items = list(read([written(tmp_path, "a.md", text)], max_bytes=MAX_BYTES))
    assert items[1:] == [LeftOut(kind="comments", characters=len("<!-- a\nb -->"))]


@pytest.mark.parametrize(
    "piece",
    ["<footer>", "<nav>x</nav>", "<p hidden>x", "<p style='font-size:0'>x", "\u200b ", "\u200b\u200b" + " " * 500,
     "<style>.a{display:none}</style>", "<style>a", "/* ", ".a{display:none}", "<!-- ", "<noscript>x", "<main>x",
     "<h1>", "<title>", "<div class=cookie-x>", "<svg><title>"],
)  # fmt: skip
@pytest.mark.parametrize("before", ["", "<style>"])
def test_reading_a_page_takes_linear_time(piece: str, before: str) -> None:
    source = before + piece * (90_000 // len(piece))
    start = time.process_time()
    read_page(source)
    without_comments(source)
    assert time.process_time() - start < 2
