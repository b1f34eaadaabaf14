"""Answer a question: retrieve passages, compose a prompt, send it to the model, and judge the reply."""

from collections.abc import Sequence

from worker.chat import prompting
from worker.chat.attempts import attempts
from worker.chat.judging import judged, without_passages
from worker.chat.prompting import Prompt
from worker.chat.questions import ChatQuestion
from worker.chat.replies import Listener
from worker.chat.sending import ChatModel, send
from worker.chat.stream import AnswerStream
from worker.index import Index
from worker.observability import events
from worker.passages import Passage, bounded_result
from worker.protocols import ChatBackend
from worker.results import Answer
from worker.search.retrieval import emptiness, retrieve


def ask(index: Index, model: ChatModel, question: ChatQuestion, stream: AnswerStream | None = None) -> Answer:
    """Return the result of a chat, see Answer.

    The sources are the passages in the prompt, in their order. Without passages, the model is not asked: the answer
    says that the index holds no documents, or that they do not answer the question.
    A TemporaryError starts another attempt, see `attempts`; it reuses the passages that an earlier one retrieved.
    Raises InvalidQuery for a question that leaves no room in the prompt, Revoked for a streamed answer that the caller
    has revoked, and the errors of `retrieve` and of the backend.
    """
    model_id = model.backend.model_id
    with events.chat(index.name):
        sources: Sequence[Passage] | None = None
        for attempt in attempts(stream):
            with attempt:
                if sources is None:
                    passages = retrieve(index, question.query)
                    prompt = _composed(index, model.backend, question, passages) if passages else None
                    sources = passages[: prompt.passages] if prompt else []
                    if stream:
                        stream.write("sources", bounded_result(sources))
                listener = Listener(stream, model_id, sources) if stream else None
                reply = send(model, prompt.messages, listener) if prompt else None
        assert sources is not None
        result = judged(reply, sources, model_id) if reply else without_passages(emptiness(index), model_id)
        if stream:
            stream.write("done", result)
        return result


def _composed(
    index: Index, backend: ChatBackend, question: ChatQuestion, passages: Sequence[Passage]
) -> Prompt:
    return prompting.compose(
        question.text,
        passages,
        history=question.history or (),
        system=index.settings.query_prompt if backend.system is None else backend.system,
        max_tokens=backend.prompt_tokens,
        count=backend.count_tokens,
    )
