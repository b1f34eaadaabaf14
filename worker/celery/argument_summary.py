"""Summaries of a task's arguments for monitors: counts, sizes and names of ours, without texts, ids and filters."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

# by parameter; of all others a flag that is set is shown by its name, and nothing else
COUNTED = {
    "documents": ("document", "documents"),
    "ids": ("id", "ids"),
    "history": ("turn", "turns"),
    "texts": ("text", "texts"),
}
SIZED = ("query", "question")
NUMBERED = ("limit", "offset")
NUMBERS = range(1_000_001)
WORDS = {"mode": ("hybrid", "vector", "text")}
PRESENT = ("filter",)
TYPED = {*COUNTED, *SIZED, *NUMBERED, *WORDS}


def summary(parameters: Sequence[str], args: object, kwargs: object, indexes: Collection[str]) -> str:
    """For example `3 documents, 14 kB, index articles`: what was given, in the order of the task's parameters.

    Whatever the message holds, it is one short line, made of words of ours, of numbers and of the names in
    `indexes`. A value of a wrong type or beyond all bounds is odd, and no more.
    """
    positional = args if isinstance(args, list | tuple) else ()
    named = kwargs if isinstance(kwargs, Mapping) else {}
    given = dict(zip(parameters, positional, strict=False))
    given |= {name: named[name] for name in parameters if name in named}
    parts = [part for name in parameters if name in given for part in _parts(name, given[name])]
    unknown = max(0, len(positional) - len(parameters)) + len(named.keys() - set(parameters))
    if unknown:
        parts.append(_count(unknown, "unknown argument", "unknown arguments"))
    if "index" in parameters:
        index = given.get("index", "default")
        known = isinstance(index, str) and index in indexes
        parts.append(f"index {index}" if known else "an unknown index")
    return ", ".join(parts) or "no arguments"


def _parts(name: str, value: object) -> Iterator[str]:
    if value is None or value is False or name == "index":
        return
    if name in COUNTED and isinstance(value, list | tuple):
        yield _count(len(value), *COUNTED[name])
        if name == "documents":
            yield _size(_texts(value))
        elif name == "texts":
            yield _size(text for text in value if isinstance(text, str))
    elif name in SIZED and isinstance(value, str):
        yield f"{name} of {_size([value])}"
    elif name in NUMBERED and isinstance(value, int) and value is not True and value in NUMBERS:
        yield f"{name} {value}"
    elif name in WORDS and value in WORDS[name]:
        yield str(value)
    elif name in PRESENT:
        yield name
    elif name in TYPED:
        yield f"odd {name}"
    elif value is True:
        yield name.replace("_", " ")


def _texts(documents: Iterable[object]) -> Iterator[str]:
    for document in documents:
        text = document.get("text") if isinstance(document, Mapping) else None
        if isinstance(text, str):
            yield text


def _size(texts: Iterable[str]) -> str:
    """Of all together in UTF-8, to two digits or so. A lone surrogate is as large as what replaces it."""
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    for unit, scale in (("MB", 1_000_000), ("kB", 1_000)):
        if size >= scale:
            number = size / scale
            return f"{number:.1f} {unit}" if number < 9.95 else f"{number:,.0f} {unit}"
    return f"{size} B"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
