"""The models of this project, registered as a plugin of `llm`. Backends reach them by name, through `llm`."""

from collections.abc import Callable
from typing import Any

import llm
from llm.models import Model

from worker.models.extra_models import check_chat_models, embedding_models
from worker.models.extractive import Extractive
from worker.models.openai_embeddings import OpenAIEmbeddings
from worker.models.wordllama import WordLlama


# Last: `llm` uses the later one of two models with the same name, and our OpenAI models replace its own.
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


# First: the error of `llm` itself does not name the broken file of models.
@llm.hookimpl(tryfirst=True)
def register_models(register: Callable[[Model], Any]) -> None:
    check_chat_models()
    register(Extractive(WordLlama()))
