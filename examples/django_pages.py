"""Django: index a page after it was saved, delete it from the index after it was deleted.

Import this module in `AppConfig.ready()`. `Page` stands for your model with `title`, `body` and
`updated_at = DateTimeField(auto_now=True)`. The guide is docs/how-to/django.md.
"""

import logging

from celery import current_app
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver
from kombu.exceptions import OperationalError
from pages.models import Page

logger = logging.getLogger(__name__)


@receiver(post_save, sender=Page)
def index(instance: Page, **_: object) -> None:
    document = {
        "id": instance.pk,
        "title": instance.title,
        "text": instance.body,
        # rises with each save, so that a late message never overwrites a newer text
        "version": int(instance.updated_at.timestamp() * 1_000_000),
    }
    transaction.on_commit(lambda: send("tasks.index_documents", documents=[document]))


@receiver(post_delete, sender=Page)
def delete(instance: Page, **_: object) -> None:
    id = instance.pk
    transaction.on_commit(lambda: send("tasks.delete_documents", ids=[id]))


def send(task: str, **kwargs: object) -> None:
    """Send a task within a second, or log that the index misses this change: the page itself is saved already."""
    if current_app.conf.task_always_eager:
        return  # a test suite: eager mode has no effect on send_task, which would write into the real index
    try:
        current_app.send_task(task, queue="vector_index", kwargs=kwargs, ignore_result=True)
    except OperationalError:
        logger.exception("the index misses a change until you run index_pages or `vector-index reindex`")
