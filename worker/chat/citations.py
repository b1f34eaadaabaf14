"""Find the passages that an answer cites, in the forms that models write.

The prompt asks for [1] and [1, 3]. Models also write [1-3], 【1†source】, [Passage 1], [^1], [[1]](url), and
"Passage 1" without brackets, with digits of any script. A number in code, a page, a time or a range beyond the
passages is no citation.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# what models call a passage, in many languages: each the beginning of a word
LABELS = """
passage source document doc reference ref excerpt extract snippet chunk citation cite context evidence fragment quote
text note footnote result number paragraph item entry file
quelle dokument textstelle textpassage auszug abschnitt absatz beleg fundstelle
nummer extrait texte référence numéro passaggi fonte fonti documento brano riferimento pasaje fuente fragmento
referencia extracto párrafo número passagem trecho referência bron tekst källa kilde kohta lähde asiakirja avsnitt
afsnit źródł fragmen zdroj pasáž úryvek odstavec sursă pasaj forrás szöveg kaynak источник отрывок документ фрагмент
текст джерел уривок πηγή απόσπασμα έγγραφο 出典 パッセージ 文書 資料 参照 来源 來源 段落 文档 文檔 文件 资料 引用 参考
출처 문서 자료 구절 المصدر مصدر المقطع مقطع الوثيقة منبع מקור קטע स्रोत अनुच्छेद nguồn đoạn sumber dokumen kutipan
แหล่งที่มา เอกสาร
""".split()  # noqa: SIM905 - the list would take a line for each word
# of them, those that name a passage without brackets too
STRONG_LABELS = """
passage source quelle textstelle textpassage extrait fonte fuente pasaje passaggio passagem trecho bron källa kilde
lähde źródło zdroj kaynak источник отрывок джерело уривок المصدر المقطع
""".split()  # noqa: SIM905
# the same in scripts without spaces, where a word may stand before them, and in Korean
STRONG_UNSPACED_LABELS = "出典 文書 来源 來源 段落 文档 文檔 출처 문서 구절".split()  # noqa: SIM905
# between two numbers: a range, or a list
TO = "to through bis à al до tot til till から 至 到".split()  # noqa: SIM905
AND = """
and und et y e i en och og ja és ve și и та και dan và or oder ou o 와 과 和 与 與 及 と や
""".split()  # noqa: SIM905
ENDS = ("and", "to", "colon")  # behind a number, these begin a page or a title
NUMBER_SIGNS = ("n", "no", "nr", "num", "nº", "id")

_BRACKETS = str.maketrans("【】〔〕〖〗［］⟦⟧〚〛「」", "[][][][][][][]")
_CIRCLED = {
    ord(character): f"({number})"
    for row in ("①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳", "❶❷❸❹❺❻❼❽❾❿", "➀➁➂➃➄➅➆➇➈➉", "➊➋➌➍➎➏➐➑➒➓", "⓵⓶⓷⓸⓹⓺⓻⓼⓽⓾")
    for number, character in enumerate(row, start=1)
}
# read as brackets: [(1)], <cite>1</cite>, <source id="1"/> and a raised number, but for that of m<sup>2</sup>
_IN_BOTH = re.compile(r"(?<=\[)\((\d{1,2})\)(?=\])")
_TAGGED = re.compile(
    r"<(cite|citation|source|ref|passage|document|doc)>([^<>]{1,60})</\1>"
    r"|<(?:cite|citation|source|ref|passage|document|doc)\s+(?:id|index|n|number|source|ref)=[\"']?(\d{1,4})[\"']?\s*/?>"
    r"|(?<![^\s.,;:!?\"'”’»)\]>])<sup>([^<>]{1,60})</sup>",
    re.IGNORECASE,
)
_BRACED = re.compile(r"\{(\d{1,3}(?:\s?,\s?\d{1,3}){0,9})\}")
_CODE = re.compile(r"^[ ]{0,3}(```|~~~).*?(?:^[ ]{0,3}\1|\Z)|`([^`\n]{0,300})`", re.MULTILINE | re.DOTALL)
_BRACKETED = re.compile(r"\[([^\[\]]{1,300})\]")
_PARENTHESISED = re.compile(
    r"(?P<before>[.!?。]?)\s?\((?P<inside>[^()]{1,300})\)(?=(?P<end>\s{0,3}[.!?。！？]|[ ]{0,3}\n|\s{0,9}\Z))?"
)
# two citations with a dash between are a range
_ACROSS = re.compile(r"\[(\d{1,4})\]\s?[–—-]\s?\[(\d{1,4})\]")
# [1,000] is a number, [1.5] too, and [12:30] a time, unless the mark of OpenAI's assistants follows
_OTHER_NUMBER = re.compile(r"(?<!\d)\d{1,3}(?:,\d{3})+(?!\d)|\d\.\d|\d\s?:\s?\d(?![^\[\]]*†)")

# the forms of citations that can be taken out of a sentence
_REMOVABLE = re.compile(
    r"(?P<space>[^\S\n]?)(?:"
    r"(?P<across>\[\d{1,4}\]\s?[–—-]\s?\[\d{1,4}\])"
    r"|\[(?P<linked>\[[^\[\]]{1,300}\])\](?:\([^()\s]{0,300}\))?"
    r"|\[(?P<bracketed>[^\[\]]{1,300})\](?:\([^()\s]{0,300}\))?"
    r"|\((?P<round>[^()]{1,300})\)"
    r"|<(?P<tag>cite|citation|source|ref|passage|document|doc)>(?P<tagged>[^<>]{1,60})</(?P=tag)>"
    r"|(?<![^\s.,;:!?\"'”’»)\]>])<sup>(?P<raised>[^<>]{1,60})</sup>"
    r"|<(?:cite|citation|source|ref|passage|document|doc)\s+(?:id|index|n|number|source|ref)=[\"']?(?P<id>\d{1,4})[\"']?"
    r"\s*/?>)",
    re.IGNORECASE,
)
MAX_NUMBER = 999  # of a citation; a larger one in brackets is a year, or the like


def _any(words: Iterable[str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_TOKEN = re.compile(
    rf"(?P<number>\d+)|(?P<label>(?:{_any(LABELS)})[^\W\d]*|(?<!\w)[SPD](?=\d))|(?P<sign>n°|[№#@^\\_*=]|(?:{_any(NUMBER_SIGNS)})(?![^\W\d]))"
    rf"|(?P<to>[-‐‑‒–—−~〜]|\.{{2,3}}|…|\b(?:{_any(TO)})\b)|(?P<colon>:)|(?P<dot>\.)"
    rf"|(?P<and>[,;、/&+|]|(?<![^\W\d])(?:{_any(AND)})(?![^\W\d]))|(?P<rest>†)|(?P<space>\s+)|(?P<word>[^\W\d]+|.)",
    re.IGNORECASE | re.DOTALL,
)
_NAMED = re.compile(
    rf"(?:(?<!\w)(?:{_any(STRONG_LABELS)})[^\W\d]{{0,2}}|{_any(STRONG_UNSPACED_LABELS)})[.:]?\s{{0,3}}[#№]?\s?(?=\d)",
    re.IGNORECASE,
)
_A_NUMBER = re.compile(r"[^\W\d]{0,3}[.:]?\s?[#№]?\s?\d")


@dataclass(frozen=True, kw_only=True)
class List:
    """The numbers at the start of a text."""

    numbers: Sequence[tuple[int, int]]  # each the first and the last of a range
    whole: bool  # whether they are all that the text has, beside labels, a page or a title
    labelled: bool  # whether a label comes first


def cited(answer: str, passages: int) -> set[int]:
    """Find the numbers of the passages that an answer cites; a number without a passage is none."""
    text = _CODE.sub(_without_code, answer.translate(_BRACKETS).translate(_CIRCLED))
    text = unicodedata.normalize("NFKC", _TAGGED.sub(_in_brackets, text))
    text = _ACROSS.sub(r"[\1-\2]", _BRACED.sub(r"(\1)", _IN_BOTH.sub(r"\1", text)))
    bracketed = [read for inside in _BRACKETED.findall(text) if (read := _read(inside)).whole]
    parentheses = [(found, _read(found["inside"])) for found in _PARENTHESISED.finditer(text)]
    named = [_read(text[found.start() : found.end() + 100]) for found in _NAMED.finditer(text)]
    lists = [*bracketed, *(read for _, read in parentheses if read.whole and read.labelled), *named]
    if not any(read.numbers for read in lists):
        # in their place: numbers in parentheses at the end of a sentence
        lists = [read for found, read in parentheses if read.whole and (found["before"] or found["end"])]
    return {
        number
        for read in lists
        for first, last in read.numbers
        for number in _existing(first, last, passages)
    }


def without_unsent(answer: str, passages: int) -> tuple[str, int]:
    """Remove the citations of passages that were not sent. Returns the answer, and how many numbers were removed.

    A list keeps the numbers that were sent. Code stays as it is, and so do numbers of four digits, ranges from 0, and
    passages that a sentence names without brackets. With `passages` 0, no citation is left.
    """
    plain = answer.translate(_BRACKETS)  # has the same length
    code = [found.span() for found in _CODE.finditer(plain) if _without_code(found) == " "]
    pieces, at, removed = [], 0, 0
    for found in _REMOVABLE.finditer(plain):
        start, end = found.span()
        if any(first <= start < last for first, last in code):
            continue
        kept, unsent = _kept(found, passages)
        if kept is not None:
            pieces += [answer[at:start], kept and f"{found['space']}{kept}"]
            at, removed = end, removed + unsent
    return "".join([*pieces, answer[at:]]), removed


def _kept(found: re.Match[str], passages: int) -> tuple[str | None, int]:
    """What is left of a citation, and how many of its numbers were not sent; `None`: it stays as it is."""
    inside = next(
        filter(
            None,
            (found[name] for name in ("across", "linked", "bracketed", "round", "tagged", "raised", "id")),
        )
    )
    read = _read(unicodedata.normalize("NFKC", inside).replace("[", "").replace("]", ""))
    is_pattern = any(first == 0 < last or max(first, last) > MAX_NUMBER for first, last in read.numbers)
    if not read.whole or is_pattern or (found["round"] and not read.labelled):
        return None, 0
    sent = [numbers for numbers in read.numbers if _existing(*numbers, passages)]
    if len(sent) == len(read.numbers):
        return None, 0
    unsent = sum(numbers not in sent and numbers != (0, 0) for numbers in read.numbers)
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in sent)
    return (f"[{shown}]" if sent else ""), unsent


def _existing(first: int, last: int, passages: int) -> Iterable[int]:
    """The passages of a range; none if it goes beyond them, as [0-9] of a pattern does."""
    if not (1 <= first <= passages and 1 <= last <= passages):
        return ()
    return range(first, last + 1) if first <= last else (first, last)


def _without_code(code: re.Match[str]) -> str:
    """Nothing, except for a citation that is all the code."""
    inside = (code[2] or "").strip()
    return inside if _BRACKETED.fullmatch(inside) else " "


def _in_brackets(tagged: re.Match[str]) -> str:
    return f"[{(tagged[2] or tagged[3] or tagged[4]).strip('[] ')}]"


def _read(text: str) -> List:
    """Read numbers, ranges and lists up to the first other word.

    Behind a comma, a colon, a dash or a parenthesis, another word begins a page or a title, which is no part of the
    list.
    """
    numbers: list[tuple[int, int]] = []
    before = ""  # the kind of the last token, but for blanks and signs
    labelled = whole = False
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup or ""
        spaced = text[token.start() - 1 : token.start()].isspace()
        opens_note = token[0] == "(" and before == "number"
        again = kind == "label" and before == "and" and _A_NUMBER.match(text, token.end())
        if kind == "number" and (before != "number" or spaced) and len(token[0]) <= 4:
            if before == "to" and numbers:
                numbers[-1] = (numbers[-1][0], int(token[0]))
            else:
                numbers.append((int(token[0]), int(token[0])))
        elif kind == "number" or (kind == "label" and before == "number"):
            break
        elif again:
            continue
        elif opens_note or kind == "rest" or (kind in ("word", "label") and numbers and before in ENDS):
            whole = bool(numbers)
            break
        elif kind == "word":
            break
        labelled = labelled or (kind == "label" and not numbers)
        before = before if kind in ("space", "sign", "dot") else kind
    else:
        whole = bool(numbers) and before != "to"
    return List(numbers=numbers, whole=whole and not _OTHER_NUMBER.search(text), labelled=labelled)
