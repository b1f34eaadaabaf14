"""Count tokens offline: exactly with a known tokenizer, otherwise by an upper bound.

A tokenizer has one of these names: `cl100k_base` or `o200k_base` (OpenAI); `package:path/in/package.json`, a file of
the `tokenizers` library in an installed package; the path of such a file; `estimate`, an upper bound.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from worker.errors import SettingsError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ESTIMATE = "estimate"
OPENAI_ENCODINGS = ("cl100k_base", "o200k_base")

# bpe_openai holds the interpreter lock while it counts, so a long text is counted in pieces
_PIECE_CHARACTERS = 100_000
# A text cut at any place has at most 2 tokens more than its pieces together (measured: BPE merges differently).
CUT_TOKENS = 2
# A tokenizer may add a start token, an end token and a leading space to a text.
_ADDED_TOKENS = 3

_JOINT = r"(?<=\S)(?=[ \t])|(?<=\n)(?=[^\s/]|[ \t]++\S)"
# A joint is a place between two words where the counts of both sides add up. No token of OpenAI's encodings continues
# from a character into a blank, or from a line feed into a new line (in o200k, except for a slash). The text after a
# joint is tokenized without a look at the text before it. For a tokenizer file, `_joints_hold` checks this first.
JOINT = re.compile(_JOINT)
_WORD = re.compile(rf"(?:[ \t]*+\S++|\s*\n|\s++)+?(?:{_JOINT}|\Z)")
_WORDS_KEPT = 50_000
_WORD_CHARACTERS = 32  # longer words seldom occur again

# Characters per 100 tokens for each kind of run: a middle between cl100k_base, o200k_base and Llama 2. These differ by
# a factor of two and more in rare scripts (benchmarks/token_counts.py).
_CHARACTERS_PER_100_TOKENS = {
    "key": 130, "word": 620, "digits": 200, "line": 200, "blank": 1600, "marks": 160, "cyrillic": 290, "alphabet": 140,
    "indic": 110, "hangul": 80, "cjk": 95, "sign": 60, "rare": 33,
}  # fmt: skip
_RUN = re.compile(
    r"(?P<key>[A-Za-z0-9+/=_-]{24,})|(?P<word> ?[A-Za-z\u00c0-\u024f]+)|(?P<digits> ?[0-9]+)|(?P<line>[\r\n]+)"
    r"|(?P<blank>[^\S\r\n]+)|(?P<marks> ?[!-/:-@\[-`{-~\x80-\u00bf\u2010-\u2027]+)|(?P<cyrillic> ?[\u0400-\u052f]+)"
    r"|(?P<alphabet> ?[\u0250-\u08ff]+)|(?P<hangul> ?[\u1100-\u11ff\uac00-\ud7a3]+)"
    r"|(?P<indic> ?[\u0900-\u10ff\u1780-\u17ff]+)"
    r"|(?P<cjk>[\u3000-\u9fff\uff00-\uffef]+)|(?P<sign>[\x00-\uffff])|(?P<rare>.)",
    re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class Counter:
    """Counts the tokens of a text and of its parts, so that the parts between joints sum up to the whole.

    For a text that `adds_up` and is cut at a joint: whole(a + b) == whole(a) + inside(b).
    """

    whole: Callable[[str], int]
    inside: Callable[[str], int]  # counts a part after the first one
    specials: tuple[str, ...] = ()  # strings that change the tokens around them

    def __call__(self, text: str) -> int:
        return self.whole(text)

    def adds_up(self, text: str) -> bool:
        return not any(special in text for special in self.specials)


@cache
def counter(tokenizer: str) -> Callable[[str], int]:
    """Load the function that counts tokens, once per process. It is a Counter if the counts of parts add up.

    It counts text that looks like a special token (`<|endoftext|>`) as any text. With a `tokenizers` file, it includes
    the special tokens that the file adds to every text.
    Raises SettingsError for an unknown name.
    """
    if tokenizer in OPENAI_ENCODINGS:
        return _openai_counter(tokenizer)
    if tokenizer == ESTIMATE:
        return upper_bound
    return _file_counter(tokenizer_file(tokenizer))


def tokenizer_file(name: str) -> Path:
    """Find the file of `package:path` or of a path. Raises SettingsError if it does not exist."""
    package, colon, inside = name.partition(":")
    path = package_file(package, inside) if colon and package.isidentifier() else Path(name)
    if not path.is_file():
        raise SettingsError(
            f"TOKENIZER is {name!r}, and no such file exists: set it to {', '.join(OPENAI_ENCODINGS)}, {ESTIMATE}, "
            "the path of a tokenizer.json, or package:path/of/one.json of an installed package"
        )
    return path


def package_file(package: str, path: str) -> Path:
    """Find a data file of an installed package without importing the package. Raises SettingsError."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SettingsError(
            f"the package {package!r} is not installed, and its file {path} is needed: install it"
        )
    return Path(spec.submodule_search_locations[0], path)


def upper_bound(text: str) -> int:
    """Return an upper bound of the tokens of a text: its bytes, the smallest tokens of byte-level tokenizers.

    It also holds for tokenizers with byte fallback. English has about four bytes a token. Rare ideographs have one,
    and keys and hashes come near that.
    """
    return len(text.encode()) + _ADDED_TOKENS


def estimate(text: str) -> int:
    """Estimate the tokens of a text, over or under. It sizes chunks for a model whose tokenizer is not known."""
    return _estimates.count(text)


def _estimate(word: str) -> int:
    runs = ((run.end() - run.start(), run.lastgroup or "") for run in _RUN.finditer(word))
    return sum(-(-100 * length // _CHARACTERS_PER_100_TOKENS[kind]) for length, kind in runs)


def _openai_counter(encoding: str) -> Counter:
    # The public class also makes a list of the ids, which doubles the time: this way counts 22 MB/s instead of 14, and
    # on short units 22 instead of 10.
    ordinary: Callable[[str], int] = _bpe_openai().tokenizer_for_encoding(encoding).count

    def count(text: str) -> int:
        if len(text) <= _PIECE_CHARACTERS:
            try:
                return ordinary(text)
            except UnicodeEncodeError:  # a lone surrogate, which a request cannot contain
                return ordinary(text.encode("utf-8", "replace").decode())
        return sum(count(piece) + extra for piece, extra in _pieces(text))

    return Counter(whole=count, inside=count)


def _bpe_openai() -> ModuleType:
    """Import the extension of bpe_openai, without the package: its models of OpenAI take 0.5 s and 60 MB."""
    package = find_spec("bpe_openai")
    spec = package and PathFinder.find_spec("bpe_openai._bindings", package.submodule_search_locations)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("No module named 'bpe_openai._bindings'", name="bpe_openai")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pieces(text: str) -> Iterator[tuple[str, int]]:
    """Yield pieces for the encoder, each with the tokens to add so that the sum is never too low."""
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        limit = start + _PIECE_CHARACTERS
        joint = JOINT.search(text, limit - _PIECE_CHARACTERS // 10, limit)
        end = joint.start() if joint else limit
        yield text[start:end], 0 if joint else CUT_TOKENS
        start = end
    yield text[start:], 0


@cache
def load_tokenizer(path: Path) -> "Tokenizer":
    """Load a file of the tokenizers library, once per process; it neither pads nor cuts texts. Raises SettingsError."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception for any file it cannot read
        raise SettingsError(
            f"TOKENIZER names {path.name!r}, which the tokenizers library cannot read ({error}): "
            "use a tokenizer.json in its format"
        ) from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _file_counter(path: Path) -> Callable[[str], int]:
    tokenizer = load_tokenizer(path)

    def count(text: str) -> int:
        # the fast variant omits the offsets, which halves the time
        return len(tokenizer.encode_batch_fast([text])[0])

    if not _joints_hold(tokenizer):
        return count
    specials = tuple(token.content for token in tokenizer.get_added_tokens_decoder().values())
    line = count("\n")
    words = _Words(lambda word: count("\n" + word) - line)

    def whole(text: str) -> int:
        # ten times as fast as the library for prose, whose words repeat
        first = _WORD.match(text)
        if first is None or any(special in text for special in specials):
            return count(text)
        return count(first[0]) + words.count(text, first.end())

    return Counter(whole=whole, inside=words.count, specials=specials)


def _joints_hold(tokenizer: "Tokenizer") -> bool:
    """Tell whether no token spans a joint. The vocabulary shows it for a BPE over the whole text, such as Llama's."""
    from tokenizers.models import BPE

    # the parts one by one, since the whole is a text of megabytes
    normalizer = json.loads(tokenizer.normalizer.__getstate__()) if tokenizer.normalizer else {}
    steps = normalizer.get("normalizers", [normalizer])
    blank = next((step["content"] for step in steps if step.get("pattern") == {"String": " "}), None)
    if (
        not isinstance(tokenizer.model, BPE)
        or tokenizer.pre_tokenizer is not None
        or not blank
        or not all(step["type"] in ("Prepend", "Replace") for step in steps)
    ):
        return False
    spans = re.compile(r"[^ \t][ \t]|\n.|.\n", re.DOTALL).search
    return not any(spans(token.replace(blank, " ")) for token in tokenizer.get_vocab())


class _Words(dict[str, int]):
    """Counts of the words seen before."""

    def __init__(self, measure: Callable[[str], int]) -> None:
        super().__init__()
        self._measure = measure

    def count(self, text: str, start: int = 0) -> int:
        return sum(map(self.__getitem__, _WORD.findall(text, start)))

    def __missing__(self, word: str) -> int:
        tokens = self._measure(word)
        if len(word) <= _WORD_CHARACTERS:
            if len(self) >= _WORDS_KEPT:
                self.clear()
            self[word] = tokens
        return tokens


_estimates = _Words(_estimate)
