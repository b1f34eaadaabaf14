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


class WordShare(TypedDict):
    """What one word of the question adds to a row."""

    word: Annotated[str, Meaning("as the index has it: stemmed, and behind `|` if its language has a tag")]
    share: Annotated[float, Meaning("what it adds to `by_words`; 0 if the chunk does not have it")]


class AppliedBoost(TypedDict):
    """What one boost made of a score."""

    field: Annotated[str, Meaning("the field of the metadata")]
    value: Annotated[Any, Meaning("its value in this document, or null", type="any")]
    factor: Annotated[
        float, Meaning("what a score of 0 or more was multiplied with; a negative one was divided")
    ]


class Explanation(TypedDict):
    """How the score of a row came about: that of its best chunk, step by step."""

    chunk: Annotated[int, Meaning("number of the best chunk of the row in its document, from 0")]
    by_vector: Annotated[
        float | None,
        Meaning('the cosine similarity; with `mode="vector"` and another `DISTANCE`, the negative distance'),
    ]
    by_words: Annotated[float | None, Meaning("the relevance by words: the sum of the shares of `words`")]
    words: Annotated[list[WordShare], Meaning("the words of the question that the index has")]
    weights: Annotated[
        list[float] | None,
        Meaning("`HYBRID_WEIGHTS`, of `by_vector` and of `by_words`; null in another mode"),
    ]
    fused: Annotated[float, Meaning("the weighted mean of both; in another mode, the one that it has")]
    boosts: Annotated[list[AppliedBoost], Meaning("each boost of the search, in order")]
    boosted: Annotated[float, Meaning("`fused` after all boosts")]
    searched: Annotated[
        float,
        Meaning(
            "the score of the search: `boosted`, or the score of a better row where that is lower. With a reranker, "
            "`score` of the row is that of `rerank` instead"
        ),
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
    explain: NotRequired[Annotated[Explanation, Meaning("only there if you sent `explain`")]]
    index: NotRequired[
        Annotated[str, Meaning("name of the index that it is from; only there if you sent `indexes`")]
    ]
    metadata_omitted: NotRequired[
        Annotated[
            bool,
            Meaning("true, and only there, if the rows above have filled the 1 MB of metadata of a result"),
        ]
    ]
