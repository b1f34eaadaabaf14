"""Languages of documents: codes of ISO 639-1, and the text-search configurations of Postgres that stem them."""

from collections.abc import Collection

SIMPLE = "simple"  # the configuration that neither stems nor drops words

# the configurations that Postgres ships, by code
_STEMMED = {
    "ar": "arabic",
    "ca": "catalan",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "es": "spanish",
    "et": "estonian",
    "eu": "basque",
    "fi": "finnish",
    "fr": "french",
    "ga": "irish",
    "hi": "hindi",
    "hu": "hungarian",
    "hy": "armenian",
    "id": "indonesian",
    "it": "italian",
    "lt": "lithuanian",
    "nb": "norwegian",
    "ne": "nepali",
    "nl": "dutch",
    "nn": "norwegian",
    "no": "norwegian",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sr": "serbian",
    "sv": "swedish",
    "ta": "tamil",
    "tr": "turkish",
    "yi": "yiddish",
}
_OTHERS = (
    "aa ab ae af ak am an as av ay az ba be bg bi bm bn bo br bs ce ch co cr cs cu cv cy dv dz ee eo fa ff fj fo "
    "fy gd gl gn gu gv ha he ho hr ht hz ia ie ig ii ik io is iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw "
    "ky la lb lg li ln lo lu lv mg mh mi mk ml mn mr ms mt my na nd ng nr nv ny oc oj om or os pa pi pl ps qu rm "
    "rn rw sa sc sd se sg si sk sl sm sn so sq ss st su sw te tg th ti tk tl tn to ts tt tw ty ug uk ur uz ve vi "
    "vo wa wo xh yo za zh zu"
)
_UNSTEMMED = frozenset(_OTHERS.split())
_TAGS = {configuration: code for code, configuration in reversed(_STEMMED.items())} | {SIMPLE: "und"}

SEPARATOR = "|"  # between a tag and a lexeme, which has letters and digits


def named(value: str, known: Collection[str]) -> str | None:
    """Return the name of the language that metadata name: a configuration, or a code without one; `None`: unknown.

    `value` is a code such as `de` or `pt-BR`, or a text-search configuration such as `german`. `known`: the
    configurations that the server has.
    """
    written = value.strip().lower()
    if written in known:
        return written
    code = written.replace("_", "-").partition("-")[0]
    if code in _STEMMED:
        return (
            _STEMMED[code] if _STEMMED[code] in known else SIMPLE
        )  # the server is older than the configuration
    return code if code in _UNSTEMMED else None


def configuration(name: str) -> str:
    """Return the text-search configuration of a language: `simple` for a code without one of its own."""
    return SIMPLE if name in _UNSTEMMED else name


def tag(name: str, own: str | None) -> str:
    """Return what marks the lexemes of a language in an index whose LANGUAGE is `own`: nothing for its own."""
    return "" if name == own else _TAGS.get(name, name)


def tagged(lexeme: str, tag: str) -> str:
    """Return a lexeme as the index has it: words of other languages than the index's are words of their own."""
    return f"{tag}{SEPARATOR}{lexeme}" if tag else lexeme


def marker(tag: str) -> str:
    """Return the lexeme that each chunk of a language has, other than that of the index."""
    return SEPARATOR + tag
