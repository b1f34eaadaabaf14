"""Remote control: commands on an exchange of our own, and what applications may ask on Celery's default one.

Applications that share the broker send their commands to the default exchange, without naming workers as a rule. Their
`shutdown` is meant for their own workers. Questions and `revoke` work on both.
"""

from typing import Any

from celery import bootsteps
from celery.worker.consumer.control import Control
from celery.worker.control import Panel
from celery.worker.pidbox import Pidbox
from kombu.pidbox import Mailbox, Node
from kombu.utils.functional import lazy

APPLICATIONS = "celery"  # Celery's default exchange


class ApplicationNode(Node):
    """Answers questions, and revokes tasks; leaves all other commands to the workers of the application."""

    def dispatch(self, method: str, *args: Any, **kwargs: Any) -> Any:
        command = Panel.meta.get(method)
        if command is None or (command.type != "inspect" and method != "revoke"):
            return None
        return super().dispatch(method, *args, **kwargs)  # type: ignore[no-untyped-call]


class ApplicationMailbox(Mailbox):
    """A mailbox on Celery's default exchange."""

    node_cls = ApplicationNode


class ApplicationControl(bootsteps.StartStopStep):
    """Listens on Celery's default exchange, from the first connection of a worker to its end."""

    requires = (Control,)

    def __init__(self, consumer: Any, **_: Any) -> None:
        box = Pidbox(consumer)
        conf = consumer.app.conf
        mailbox = ApplicationMailbox(  # type: ignore[no-untyped-call]
            APPLICATIONS,
            type="fanout",
            accept=conf.accept_content,
            serializer=conf.task_serializer,
            producer_pool=lazy(lambda: consumer.app.amqp.producer_pool),  # type: ignore[no-untyped-call]
            queue_ttl=conf.control_queue_ttl,
            reply_queue_ttl=conf.control_queue_ttl,
            queue_expires=conf.control_queue_expires,
            reply_queue_expires=conf.control_queue_expires,
        )
        node, handlers = box.node, Panel.data
        box.node = mailbox.Node(node.hostname, node.state, handlers=handlers)  # type: ignore[no-untyped-call]
        self._box = box

    def start(self, consumer: Any) -> None:
        self._box.start(consumer)

    def stop(self, consumer: Any) -> None:
        self._box.stop(consumer)

    def shutdown(self, consumer: Any) -> None:
        self._box.shutdown(consumer)
