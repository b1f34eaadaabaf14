"""The arguments that several tasks take, each with its meaning. They arrive as JSON, by name."""

from typing import Annotated, Any

from worker.reference import Meaning
from worker.search.boosting import MAX_BOOSTS
from worker.search.queries import MAX_INDEXES, MAX_LIMIT, MAX_OFFSET, MAX_QUERIES, MODES

FILTERS = "[filter](../how-to/search.md#filters) over metadata"

Index = Annotated[str, Meaning("name of an index in the settings")]
Indexes = Annotated[
    list[str] | None,
    Meaning(
        f"instead of `index`: 1 to {MAX_INDEXES} indexes, searched as one; each row names its `index`",
        type="list of strings",
    ),
]
AnyIndex = Annotated[str, Meaning("name of an index, in the settings or not")]
Ids = Annotated[list[Any] | None, Meaning("ids of documents", type="list of strings or integers")]
IdsOrAll = Annotated[
    list[Any] | None, Meaning("ids of documents; null: the whole index", type="list of strings or integers")
]
Version = Annotated[
    int | None,
    Meaning("keep documents of a higher version than this; without it, the delete is the newest change"),
]
Query = Annotated[str, Meaning("the question, with at least one word")]
OptionalQuery = Annotated[
    str | None, Meaning("the question, with at least one word; this or `queries` is required")
]
Queries = Annotated[
    list[str] | None,
    Meaning(
        f"instead of `query`: 1 to {MAX_QUERIES} questions, fused; a score is the mean over them",
        type="list of strings",
    ),
]
Limit = Annotated[int, Meaning(f"the most rows, 1 to {MAX_LIMIT}")]
Offset = Annotated[int, Meaning(f"rows to skip, 0 to {MAX_OFFSET:,}")]
Filter = Annotated[dict[str, Any] | None, Meaning(f"only documents that match this {FILTERS}")]
Threshold = Annotated[float, Meaning("leave out rows of less similarity, 0 (off) to 1")]
PerDocument = Annotated[int | None, Meaning(f"the most rows of one document, 1 to {MAX_LIMIT}")]
Mode = Annotated[
    str,
    Meaning(
        "how to rank: by words and vectors, or by one of them",
        type=" or ".join(f'`"{mode}"`' for mode in MODES),
    ),
]
Boosts = Annotated[
    list[dict[str, Any]] | None,
    Meaning(
        f"raise [new or popular](../how-to/search.md#boost) documents; at most {MAX_BOOSTS}",
        type="list of objects",
    ),
]
Explain = Annotated[bool, Meaning("let each row [explain](../how-to/search.md#explain) its score")]
Rerank = Annotated[
    bool | str | None,
    Meaning(
        "whether to [rerank](../how-to/search.md#rerank), or the name of an entry of `RERANK_BACKENDS`; null: as the "
        "index does",
        type="boolean, string or null",
    ),
]
Documents = Annotated[
    list[Any], Meaning("the documents; a bad one fails alone", type="list of [documents](#a-document)")
]
Jobs = Annotated[
    list[dict[str, Any]],
    Meaning("for each job its task `id`, `name`, `arguments` (a summary), `began` and `ignore_result`"),
]
History = Annotated[
    list[dict[str, str]] | None,
    Meaning('earlier turns, oldest first, each `{"role": "user" or "assistant", "content": "..."}`'),
]
