"""The results of chats: JSON objects, each field with its meaning. An application gets them as dictionaries."""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from worker.reference import Meaning
from worker.search_results import Row

FinishReason = Literal["stop", "length", "content_filter", "refusal", "tool_calls", "unknown"]
Reason = Literal["declined", "nothing_found", "unknown_words", "empty_index", "stopped", "invalid_data"]


class SourceRow(Row):
    """A passage that the chat model was given."""

    cited: Annotated[bool, Meaning("whether the answer names the number of this row")]


class Usage(TypedDict):
    """Tokens of a request to a chat model, as the provider counted them, else as the worker did."""

    input_tokens: Annotated[int, Meaning("tokens of the prompt; 0 if the search found nothing")]
    output_tokens: Annotated[int, Meaning("tokens of the answer; 0 if the search found nothing")]


class Answer(TypedDict):
    """An answer with its sources."""

    answer: Annotated[
        str,
        Meaning(
            "the answer, with citations of its sources such as `[1]` or `[1, 3]`; with a `schema`, as the model "
            "wrote it"
        ),
    ]
    data: NotRequired[
        Annotated[
            Any,
            Meaning(
                "the JSON of the answer; only with a `schema` in `PROMPT_KWARGS`. Null if it does not match",
                type="JSON value",
            ),
        ]
    ]
    answered: Annotated[
        bool,
        Meaning(
            "false if the documents do not answer, nothing was found, or the answer was refused or stopped"
        ),
    ]
    reason: Annotated[
        Reason | None,
        Meaning("[why it is not answered](../how-to/chat.md#when-a-question-is-not-answered); null if it is"),
    ]
    finish_reason: Annotated[FinishReason | None, Meaning("[its end](../how-to/chat.md#how-an-answer-ends)")]
    reasoning: Annotated[str, Meaning("what the model thought before it answered, or empty")]
    sources: Annotated[
        list[SourceRow], Meaning("the passages of the prompt, in their order: `[1]` is the first")
    ]
    grounded: Annotated[
        bool | None,
        Meaning("whether the answer cites a source; null if it was not asked to, or nothing was found"),
    ]
    groundedness: Annotated[
        float | None,
        Meaning(
            "share of its sentences, from 0 to 1, whose words [occur in the passages that it "
            "cites](../how-to/chat.md#check-an-answer); null if it is not answered, or has no words to look for"
        ),
    ]
    removed_citations: Annotated[
        int,
        Meaning(
            "numbers that the model cited without having been sent such a passage; the answer is without them"
        ),
    ]
    searched: Annotated[
        str | None,
        Meaning("the question that the model wrote for the search; null without `FOLLOW_UP` `rewrite`"),
    ]
    model: Annotated[str, Meaning("name of the chat model")]
    usage: Annotated[Usage, Meaning("tokens of the request, and of the one that wrote `searched`")]
