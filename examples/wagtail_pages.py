"""Wagtail: keep an index of live pages, and get pages back from searches and answers.

Replaces wagtail-vector-index in a site: docs/migrate-from-wagtail-vector-index.md is the guide. `BlogPage` and
`EventPage` stand for your page models, each with `embedding_fields`, a list of the names of its fields.
Import this module in `AppConfig.ready()`, and name `documents` in it as the SOURCE of the index.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import django
from celery import current_app
from django.apps import apps
from django.db import transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver

if not apps.models_ready:  # a worker imports this module to call `documents`; a site has set Django up before
    django.setup()

from blog.models import BlogPage, EventPage
from wagtail.models import Page
from wagtail.search.index import SearchField
from wagtail.signals import page_published, page_unpublished

MODELS = (BlogPage, EventPage)


def documents() -> Iterator[dict[str, Any]]:
    """Yield every live page. The worker compares them with the index."""
    for model in MODELS:
        for page in model.objects.live().iterator(chunk_size=1000):
            yield document(page)


def document(page: Page) -> dict[str, Any]:
    values = [SearchField(name).get_value(page) for name in page.embedding_fields]
    texts = [value if isinstance(value, str) else "\n".join(map(str, value)) for value in values if value]
    return {
        "id": key(page),
        "title": page.title,  # embedded with every chunk, as an `important` field was
        "text": "\n\n".join(texts),
        "metadata": {"model": page._meta.label, "locale": page.locale.language_code},
    }


def key(page: Page) -> str:
    return f"{page._meta.label}:{page.pk}"


@receiver(page_published)
def index(instance: Page, **_: object) -> None:
    if isinstance(instance, MODELS):
        page = document(instance)
        transaction.on_commit(lambda: send("tasks.index_documents", documents=[page]))


@receiver([page_unpublished, post_delete])
def delete(instance: object, **_: object) -> None:
    if isinstance(instance, MODELS):
        id = key(instance)
        transaction.on_commit(lambda: send("tasks.delete_documents", ids=[id]))


def send(task: str, **kwargs: object) -> None:
    current_app.send_task(task, queue="vector_index", kwargs=kwargs, ignore_result=True)


def search(query: str, limit: int = 5, **options: object) -> list[Page]:
    """The pages nearest to the query, best first."""
    return pages(ask("tasks.search", query=query, limit=limit, per_document=1, **options))


def find_similar(page: Page, limit: int = 5, **options: object) -> list[Page]:
    """The pages nearest to an indexed page."""
    return pages(ask("tasks.find_similar", document_id=key(page), limit=limit, **options))


def query(question: str, **options: object) -> tuple[str, list[Page]]:
    """An answer, and the pages that it was made from."""
    result = ask("tasks.chat", question=question, **options)
    return result["answer"], pages(result["sources"])


def ask(task: str, **kwargs: object) -> Any:
    return current_app.send_task(task, queue="vector_index.chat", kwargs=kwargs).get(timeout=90)


def pages(rows: Iterable[dict[str, Any]]) -> list[Page]:
    """The page of each row, once, in their order. A page that was deleted meanwhile is left out."""
    keys = list(dict.fromkeys(row["document_id"] for row in rows))
    found: dict[str, Page] = {}
    for model in MODELS:
        ids = [id for label, _, id in (key.partition(":") for key in keys) if label == model._meta.label]
        found |= {key(page): page for page in model.objects.live().in_bulk(ids).values()}
    return [found[key] for key in keys if key in found]
