"""Counting tokens, offline: exactly where the tokenizer is known, by a bound where it is not.

Names: `cl100k_base` and `o200k_base` (OpenAI); `package:path/in/package.json`, a file of the `tokenizers`
library inside an installed package; the path of such a file; `estimate`, which never counts too few.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from worker.errors import SettingsError

ESTIMATE = "estimate"
OPENAI_ENCODINGS = ("cl100k_base", "o200k_base")

# bpe_openai refuses 1,000,000 characters
_PIECE_CHARACTERS = 200_000
# Both encodings split a text into words before they merge bytes, and end a word between a letter and any of
# these characters, whatever stands around: there the counts of two pieces add up exactly.
_WORD_END = re.compile(r"(?<=[A-Za-z\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff])(?=[\s\d.,;:!?()+/=。、，])")
# Cut inside a word, a text counts at most 2 tokens more than its pieces together (measured).
_CUT_WORD_TOKENS = 2
# A tokenizer may add a start, an end and a leading space to a text.
_ADDED_TOKENS = 3


@cache
def counter(tokenizer: str) -> Callable[[str], int]:
    """The function that counts a text's tokens, loaded once per process.

    Text that looks like a special token (`<|endoftext|>`) is counted, never refused. Counts of a `tokenizers`
    file include the special tokens that the file adds to every text.
    Raises SettingsError for a name that is none of the module's.
    """
    if tokenizer in OPENAI_ENCODINGS:
        return _openai_counter(tokenizer)
    if tokenizer == ESTIMATE:
        return _estimate
    return _file_counter(tokenizer_file(tokenizer))


def tokenizer_file(name: str) -> Path:
    """The file behind `package:path` or a path. Raises SettingsError where there is none."""
    package, colon, inside = name.partition(":")
    path = package_file(package, inside) if colon and package.isidentifier() else Path(name)
    if not path.is_file():
        raise SettingsError(
            f"TOKENIZER is {name!r}, which is no file: name {', '.join(OPENAI_ENCODINGS)}, {ESTIMATE}, "
            "the path of a tokenizer.json, or package:path/of/one.json of an installed package"
        )
    return path


def package_file(package: str, path: str) -> Path:
    """A data file of an installed package, which is found but not imported. Raises SettingsError."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SettingsError(f"the package {package!r}, whose {path} is needed, is not installed: install it")
    return Path(spec.submodule_search_locations[0], path)


def _openai_counter(encoding: str) -> Callable[[str], int]:
    # takes most of a second, and only a process that counts needs it
    import bpe_openai

    encode = bpe_openai.get_encoding(encoding).encode_ordinary

    def count(text: str) -> int:
        if len(text) <= _PIECE_CHARACTERS:
            return len(encode(text))
        return sum(len(encode(piece)) + extra for piece, extra in _pieces(text))

    return count


def _pieces(text: str) -> Iterator[tuple[str, int]]:
    """Pieces that the encoder takes, each with the tokens to add so that the sum is never too small."""
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        limit = start + _PIECE_CHARACTERS
        word_end = _WORD_END.search(text, limit - _PIECE_CHARACTERS // 10, limit)
        end = word_end.start() if word_end else limit
        yield text[start:end], 0 if word_end else _CUT_WORD_TOKENS
        start = end
    yield text[start:], 0


def _file_counter(path: Path) -> Callable[[str], int]:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception for any file it cannot read
        raise SettingsError(
            f"TOKENIZER names {path.name!r}, which the tokenizers library cannot read ({error}): "
            "name a tokenizer.json in its format"
        ) from None
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def count(text: str) -> int:
        # the fast variant leaves out the offsets, which nothing here needs: half the time
        return len(tokenizer.encode_batch_fast([text])[0])

    return count


def _estimate(text: str) -> int:
    """A byte is the smallest token of every byte-level or byte-fallback tokenizer, so bytes bound the tokens.

    English has about four bytes a token, but rare ideographs have one, and keys and hashes come near it.
    """
    return len(text.encode()) + _ADDED_TOKENS
