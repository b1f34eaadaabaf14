"""embed_texts: vectors for texts of the application's own."""

from typing import Annotated, Any

from tasks.arguments import Index
from worker import wiring
from worker.celery.application import app
from worker.reference import Meaning
from worker.results import EmbeddedTexts
from worker.search import texts as own_texts
from worker.search.texts import KINDS, MAX_TEXTS, Manner, OwnTexts


@app.task(name="tasks.embed_texts", resultrepr_maxsize=1)
def embed_texts(
    texts: Annotated[
        list[Any], Meaning(f"1 to {MAX_TEXTS} texts, each with at least one word", type="list of strings")
    ],
    kind: Annotated[
        str,
        Meaning(
            "which prefix of the model they get: that of documents, or that of questions",
            type=" or ".join(f'`"{kind}"`' for kind in KINDS),
        ),
    ] = "document",
    embedding_backend: Annotated[
        str | None, Meaning("name of an entry of `EMBEDDING_BACKENDS`, in place of the model of the index")
    ] = None,
    index: Index = "default",
) -> EmbeddedTexts:
    """Embed a few texts of your own, and return their vectors. Nothing is stored.

    The vectors are those that the index would store for a document with this text, so they compare with its vectors.
    Texts share requests within the limits of the model, and wait at most 5 seconds for its rate limits. The caller is
    waiting, so an unavailable provider is reported at once.

    Second run: embeds again. It changes nothing.

    Errors: InvalidQuery (a text that is too long is named by its position), UnknownIndex, SettingsError,
    ProviderUnavailable, ServiceUnreachable, TooLarge and Refused.
    """
    own = OwnTexts(texts=texts, kind=kind)
    if embedding_backend is None:
        manner = Manner.of_index(wiring.index(index), kind)
    else:
        manner = Manner.of_backend(wiring.embedder(embedding_backend), kind)
    return own_texts.embed_texts(manner, own)
