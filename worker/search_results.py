"""The rows of searches: JSON objects, each field with its meaning."""

from typing import Annotated, Any, NotRequired, TypedDict

from worker.reference import Meaning


class Reranked(TypedDict):
    """What a reranker said about a row."""

    model: Annotated[str, Meaning("name of the reranker")]
    score: Annotated[
        float | None,
        Meaning("its score, on its own scale; null for a row behind the reranked ones, and after an error"),
    ]
    error: NotRequired[
        Annotated[str, Meaning("why the order is that without a reranker; only there if it failed")]
    ]


class Row(TypedDict):
    """A passage: one to three neighbouring chunks of a document."""

    document_id: Annotated[str, Meaning("your id")]
    title: Annotated[str, Meaning("as you sent it, or empty")]
    metadata: Annotated[dict[str, Any], Meaning("as you sent it, or empty")]
    text: Annotated[str, Meaning("the passage")]
    start: Annotated[int, Meaning("its first code point in the text of the document")]
    end: Annotated[int, Meaning("the code point after its last one")]
    chunks: Annotated[
        list[int],
        Meaning("numbers of its first and its last chunk in the document, from 0", type="`[first, last]`"),
    ]
    score: Annotated[float, Meaning("orders the rows of this answer; compare it only with these")]
    similarity: Annotated[
        float | None,
        Meaning(
            '1 − cosine distance to the question, at most 1; null with `mode="text"`, or another `DISTANCE`'
        ),
    ]
    rerank: NotRequired[Annotated[Reranked, Meaning("only there if a reranker was asked")]]
    index: NotRequired[
        Annotated[str, Meaning("name of the index that it is from; only there if you sent `indexes`")]
    ]
    metadata_omitted: NotRequired[
        Annotated[
            bool,
            Meaning("true, and only there, if the rows above have filled the 1 MB of metadata of a result"),
        ]
    ]
