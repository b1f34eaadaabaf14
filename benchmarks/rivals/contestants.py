"""The contenders by name, with their variants."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Kind:
    environment: str | None  # None: the project's own
    variants: Sequence[str]  # the usual one first


KINDS = {
    "ours": Kind(environment=None, variants=("default", "outbox", "no-words", "small", "new")),
    "sketch": Kind(environment="script", variants=("default",)),
    "script": Kind(environment="script", variants=("batches", "documents")),
    "pgai": Kind(environment="pgai", variants=("c10", "c1")),
    "langchain": Kind(environment="langchain", variants=("v1", "v2")),
    "llamaindex": Kind(environment="llamaindex", variants=("async", "sync")),
    "cocoindex": Kind(environment="cocoindex", variants=("default",)),
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A contender with its variant."""

    name: str
    variant: str

    @classmethod
    def parse(cls, text: str) -> "Entry":
        """Read `name` or `name:variant`. Raises SystemExit for an unknown one."""
        name, _, variant = text.partition(":")
        if name not in KINDS or (variant and variant not in KINDS[name].variants):
            known = ", ".join(f"{name} ({', '.join(kind.variants)})" for name, kind in KINDS.items())
            raise SystemExit(f"unknown contender {text!r}; there are {known}")
        return cls(name=name, variant=variant or KINDS[name].variants[0])

    @property
    def environment(self) -> str | None:
        return KINDS[self.name].environment

    def __str__(self) -> str:
        usual = KINDS[self.name].variants[0]
        return self.name if self.variant == usual else f"{self.name}:{self.variant}"
