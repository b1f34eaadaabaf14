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
_CONFIGURATIONS = dict.fromkeys(_OTHERS.split(), SIMPLE) | _STEMMED
_TAGS = {configuration: code for code, configuration in reversed(_STEMMED.items())} | {SIMPLE: "und"}

SEPARATOR = "|"  # between a tag and a lexeme, which has letters and digits


def configuration_of(value: str, known: Collection[str]) -> str | None:
    """Return the text-search configuration of a document whose metadata name a language; `None` if it is unknown.

    `value` is a code such as `de` or `pt-BR`, or a configuration such as `german`. A code without a configuration of
    its own, such as `ja`, is `simple`. `known`: the configurations that the server has.
    """
    written = value.strip().lower()
    if written in known:
        return written
    configuration = _CONFIGURATIONS.get(written.replace("_", "-").partition("-")[0])
    if configuration is None or configuration in known:
        return configuration
    return SIMPLE  # of a server that is older than the configuration


def tag(configuration: str, own: str) -> str:
    """Return what marks the lexemes of a configuration in an index whose LANGUAGE is `own`: nothing for its own."""
    return "" if configuration == own else _TAGS.get(configuration, configuration)


def tagged(lexeme: str, tag: str) -> str:
    """Return a lexeme as the index has it: words of other languages than the index's are words of their own."""
    return f"{tag}{SEPARATOR}{lexeme}" if tag else lexeme


def marker(tag: str) -> str:
    """Return the lexeme that each chunk of a language has, other than that of the index."""
    return SEPARATOR + tag
