"""Our plugin of `llm`: the models that this project brings, reached by their names through `llm` alone."""

from collections.abc import Callable
from typing import Any

import llm
from llm.models import Model

from worker.models.extra_models import check_chat_models, embedding_models
from worker.models.extractive import Extractive
from worker.models.openai_embeddings import OpenAIEmbeddings
from worker.models.wordllama import WordLlama


# Last: of two models with one name, `llm` takes the one that was registered later, and OpenAI's should be ours.
@llm.hookimpl(trylast=True)
def register_embedding_models(register: Callable[..., None]) -> None:
    register(WordLlama())
    ada, small, large = (f"text-embedding-{name}" for name in ("ada-002", "3-small", "3-large"))
    register(OpenAIEmbeddings(ada, ada), aliases=("ada", "ada-002"))
    for name, lengths in ((small, (None, 512)), (large, (None, 256, 1024))):
        for length in lengths:
            id = f"{name}-{length}" if length else name
            model = OpenAIEmbeddings(id, name, dimensions=length, can_shorten=True)
            register(model, aliases=(id.removeprefix("text-embedding-"),))
    for model, aliases in embedding_models():
        register(model, aliases=aliases)


# First: what `llm` itself raises for a broken file of models does not name it.
@llm.hookimpl(tryfirst=True)
def register_models(register: Callable[[Model], Any]) -> None:
    check_chat_models()
    register(Extractive(WordLlama()))
