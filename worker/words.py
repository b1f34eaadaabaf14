"""One spelling of text: for the model, for the index of words, and for questions. Marks and forms make no difference.

Stored texts stay as they are, so offsets point into them. Postgres gets words of letters and digits between spaces, and
finds the same words whatever its locale.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import unescape
from typing import NamedTuple

SPELLING = 2  # version of `index_words`: the sweep spells the chunks of an older version again

_MAX_BYTES = 200_000  # of the words of a chunk, and of their parts: a tsvector has at most 1 MB
_MAX_PARTS = 12  # of an identifier; a key of random letters and digits has more
_MAX_WHOLE = 64  # characters of an identifier

# Unicode's Default_Ignorable_Code_Point: readers see none of them
_JOINERS = {0x200C, 0x200D, *range(0xFE00, 0xFE10), *range(0xE0020, 0xE0080)}  # they change letters and emoji
_IGNORABLE = {
    *(0xAD, 0x34F, 0x61C, 0x3164, 0xFEFF, 0xFFA0),
    *(*range(0x115F, 0x1161), *range(0x17B4, 0x17B6), *range(0x180B, 0x1810), *range(0x200B, 0x2010)),
    *(*range(0x202A, 0x202F), *range(0x2060, 0x2070), *range(0xFE00, 0xFE10), *range(0xFFF0, 0xFFF9)),
    *(*range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B), *range(0xE0000, 0xE1000)),
}
# Tatweel, and the vowel signs of Arabic and Hebrew, which few texts write
_OPTIONAL = {
    *(0x640, 0x670, 0x7FA),
    *(*range(0x610, 0x61B), *range(0x64B, 0x653), *range(0x6D6, 0x6DD)),
    *(*range(0x591, 0x5BE), *range(0x5C1, 0x5C3), *range(0x5C4, 0x5C6), 0x5BF, 0x5C7),
}
_APOSTROPHES = "'`‘’‛′ʹʻʼˈ՚׳"
_PARTING = "\u200b\u200c"  # of no width, but they part words, in Persian for one
_HYPHENS = "-‐‑‒–−·‧֊־᠆⁃" + _PARTING
# Between letters or digits, these join the parts of a word. Each side of a strong one may be a word of parts itself.
_WEAK = "-._'"
_STRONG = "/\\@:&+#=?%~"

_EDGES = _WEAK + _STRONG.replace("+", "").replace("#", "")
_PLUSES = re.compile(r"(?<=[^\W\d_])\++(?![^\W\d_])")  # C++, C++17
_SHARP = re.compile(r"(?<=[^\W\d_])#(?![^\W_])")  # C#
_NAMED = re.compile(r"[^\W\d_]+(?=[+#])")
_STRONG_JOINT = re.compile(f"[{re.escape(_STRONG)}]+")
_WEAK_JOINT = re.compile(f"[{re.escape(_WEAK)}]+")
# parse, HTTP, Response and 2 in parseHTTPResponse2
_ASCII_PART = re.compile("[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")

# Thai, Lao, Myanmar, Khmer, Tai Le, New Tai Lue, Khmer symbols, Tai Tham, kana, Bopomofo, ideographs, Yi, Myanmar
# extended, Tai Viet, kana extended, ideographs beyond the basic plane
_UNSPACED_CHARACTERS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u3005-\u3007\u3021-\u3029\u3031-\u3035"
    "\u3038-\u303c\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\ua4cf\ua9e0-\ua9ff\uaa60-\uaadf"
    "\uf900-\ufaff\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
)
_UNSPACED = re.compile(f"[{_UNSPACED_CHARACTERS}]+")
_PARTED = re.compile(f"(?<=[{_UNSPACED_CHARACTERS}])[{_PARTING}]+(?=[{_UNSPACED_CHARACTERS}])")
_CLUSTER = re.compile(r"\w\W*+|\W++")  # of letters and marks: a letter with its marks
_MEANT = ("<super>", "<sub>", "<fraction>")  # forms with a meaning of their own: 10² is not 102


# Tags of HTML are no words, but List<String> has two
_TAG = re.compile(
    r"</?(?:a|abbr|article|aside|b|big|blockquote|body|br|button|caption|center|cite|code|col|colgroup|dd|del|details|"
    r"dfn|div|dl|dt|em|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|kbd|label|"
    r"li|link|main|mark|meta|nav|ol|option|p|path|pre|q|s|samp|script|section|select|small|span|strong|style|sub|"
    r"summary|sup|svg|table|tbody|td|textarea|tfoot|th|thead|time|title|tr|tt|u|ul|var|video)(?:\s[^<>]*+)?/?>",
    re.IGNORECASE,
)


class _Replacements(dict[int, str | None]):
    """The replacement of each character; `find` looks up an unknown one once."""

    def __init__(self, known: Mapping[int, str | None], find: Callable[[str], str | None]) -> None:
        super().__init__(known)
        self._find = find

    def __missing__(self, code: int) -> str | None:
        self[code] = found = self._find(chr(code))
        return found


def _for_model(character: str) -> str | None:
    """A letter in its usual form; marks, spaces, superscripts and fractions as they are."""
    usual = unicodedata.normalize("NFKC", character)
    is_mark = unicodedata.category(character)[0] in "PSZ" and not usual.isalnum()
    return character if is_mark or unicodedata.decomposition(character).startswith(_MEANT) else usual


def _for_words(character: str) -> str | None:
    """A letter, digit or joint as it is; a space for anything else."""
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Me":  # encloses the character before it
        return None
    return character if category[0] in "LMN" or category in ("Co", "Cn") else " "


_VISIBLE = _Replacements(dict.fromkeys(_IGNORABLE - _JOINERS), _for_model)
# as ranges: Python compares each character with every single one beyond the basic plane
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e001f\U000e0080-\U000e0fff]"
)
_SPELLED = _Replacements(
    dict.fromkeys(_IGNORABLE | _OPTIONAL)
    | dict.fromkeys(map(ord, _APOSTROPHES), "'")
    | dict.fromkeys(map(ord, _HYPHENS), "-")
    | {ord(joint): joint for joint in _WEAK + _STRONG},
    _for_words,
)


# as `_SPELLED`, for bytes: five times as fast
_SPELLED_ASCII = bytes(ord(_SPELLED[code] or " ") if code < 128 else code for code in range(256))


class IndexWords(NamedTuple):
    """The words of a chunk or a token, each kind between spaces."""

    words: str  # whole words, identifiers without their joints
    parts: str  # parts of identifiers, which say less about a text than its words


NO_WORDS = IndexWords("", "")


def visible(text: str) -> str:
    """Return a text as a reader sees it, for a model: without soft hyphens and the like, in usual forms of letters.

    Joiners stay, because they change letters and emoji, and so do superscripts, subscripts and fractions. Spaces and
    marks stay: models know them, and their texts are counted fast.
    """
    if text.isascii() or (unicodedata.is_normalized("NFKC", text) and not _INVISIBLE.search(text)):
        return text
    return unicodedata.normalize("NFC", text.translate(_VISIBLE))


def index_words(*texts: str) -> IndexWords:
    """Return the words to index of a chunk, its heading and its text.

    Compatibility forms, invisible characters and case make no difference. An identifier is a word, and it has parts:
    `INV-2024-0042`, `snake_case`, `camelCase`, a path, an address or a version. In scripts without spaces between
    words, each pair of neighbouring characters is a word.
    """
    spelled = [_spell(token) for token in tokens("\n".join(texts))]
    if not spelled:
        return NO_WORDS
    return IndexWords(*(_bounded(_joined(each)) for each in zip(*spelled, strict=True)))


def tokens(text: str) -> list[str]:
    """Split a text into tokens. Its words are those of its tokens, in this order."""
    if "<" in text:
        text = _TAG.sub(" ", text)
    if "&" in text:
        text = unescape(text)
    if text.isascii():
        return text.encode().translate(_SPELLED_ASCII).decode().split()
    # NFKC makes a space of an acute accent, which many write as an apostrophe
    text = unicodedata.normalize("NFKC", text.replace("´", "'"))
    return _PARTED.sub("", text).translate(_SPELLED).split()


def spell(token: str) -> IndexWords:
    """Return the words of a token, which has the same in every text."""
    words, parts = _spell(token)
    return IndexWords(_fold(words), _fold(parts) if parts else "")


def question_words(text: str) -> str:
    """Return the words to look up of a question: those that `index_words` makes of a text that answers it."""
    return _joined(word for token in tokens(text) for word in _spell(token, last=False))


def _joined(words: Iterable[str]) -> str:
    return _fold(" ".join(filter(None, words)))


def _bounded(words: str) -> str:
    if len(words) * 4 <= _MAX_BYTES:
        return words
    return words.encode()[:_MAX_BYTES].decode(errors="ignore")


def is_single(word: str) -> bool:
    """Whether a word is one character of a script without spaces, which the index has at the start of a pair."""
    return bool(_UNSPACED.fullmatch(word)) and len(_clusters(word)) == 1


def _fold(words: str) -> str:
    if words.isascii():
        return words.lower()
    folded = words.casefold().replace("i\u0307", "i").replace("ı", "i")  # İstanbul and ISTANBUL
    return unicodedata.normalize("NFC", folded)


def _spell(token: str, *, last: bool = True) -> IndexWords:
    """The words of a token. `last`: also the last character of a pair."""
    token = token.strip(_EDGES)
    if token.isascii() or not _UNSPACED.search(token):
        return IndexWords(token, "") if _is_plain(token) else _identifier(token)
    found: list[IndexWords] = []
    at = 0
    for run in _UNSPACED.finditer(token):
        found.append(_identifier(token[at : run.start()]))
        found.append(IndexWords(" ".join(_pairs(run.group(), last=last)), ""))
        at = run.end()
    words, parts = zip(*found, _identifier(token[at:]), strict=True)
    return IndexWords(" ".join(filter(None, words)), " ".join(filter(None, parts)))


def _pairs(run: str, *, last: bool) -> list[str]:
    """Pairs of neighbouring characters with their marks; then the last one, for questions of one character."""
    clusters = _clusters(run)
    pairs = list(map(str.__add__, clusters, clusters[1:]))
    return [*pairs, clusters[-1]] if last or not pairs else pairs


def _clusters(run: str) -> Sequence[str]:
    return run if run.isalpha() else _CLUSTER.findall(run)


def _identifier(token: str) -> IndexWords:
    """The whole of a token without its joints, and its parts."""
    named: Sequence[str] = ()
    if ("+" in token or "#" in token) and (named := _NAMED.findall(token)):
        token = _SHARP.sub("sharp", _PLUSES.sub(lambda found: "plus" * len(found[0]), token))
    sides = [parts for side in _STRONG_JOINT.split(token) if (parts := _parts(side))]
    every = [part for parts in sides for part in parts] if len(sides) > 1 else sides[0] if sides else []
    wholes = [_whole(parts) for parts in sides if len(parts) > 1]
    if len(sides) > 1 and len(every) <= _MAX_PARTS:
        wholes.append(_whole(every))
    if len(every) > 1 and every[0] in "vV" and every[1].isdigit():  # a version
        wholes.append(_whole(every[1:]))
    if len(every) == 1:
        return IndexWords(every[0], " ".join(name for name in named if name not in every))
    fitting = dict.fromkeys(whole for whole in wholes if len(whole) <= _MAX_WHOLE)
    return IndexWords(" ".join(fitting), " ".join(dict.fromkeys([*every, *named])))


def _parts(side: str) -> list[str]:
    """The parts between weak joints, cut at changes of case and between letters and digits."""
    if "'" not in side and side.isascii():
        parts = _ASCII_PART.findall(side)
        if len(parts) <= _MAX_PARTS:
            return parts
    pieces = [piece for piece in _WEAK_JOINT.split(side) if piece]
    if "'" in side and len(pieces) == 2 and pieces[1] in "sS":  # a possessive
        return pieces[:1]
    parts = [part for piece in pieces for part in _cut(piece)]
    return parts if len(parts) <= _MAX_PARTS else pieces


def _cut(piece: str) -> Iterator[str]:
    """Cut a piece at changes of case and between letters and digits."""
    start = 0
    if not _is_plain(piece):
        for at in range(1, len(piece)):
            before, here, after = piece[at - 1], piece[at], piece[at + 1 : at + 2]
            upper = here.isupper() and (before.islower() or (before.isupper() and after.islower()))
            if upper or before.isdigit() != here.isdigit():
                yield piece[start:at]
                start = at
    yield piece[start:]


def _is_plain(word: str) -> bool:
    """Whether a word has no parts."""
    return word.isalpha() and ((rest := word[1:]) == rest.lower() or word.isupper())


def _whole(parts: Sequence[str]) -> str:
    """Join the parts; an x keeps numbers apart, as those of a version."""
    whole = parts[0]
    for part in parts[1:]:
        whole += f"x{part}" if whole[-1].isdigit() and part[0].isdigit() else part
    return whole
