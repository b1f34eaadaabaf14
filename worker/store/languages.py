"""The language of each document, where a metadata field names it, and the languages that a build has."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker import languages
from worker.observability import events
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.statements import statement


@dataclass(frozen=True, kw_only=True)
class Language:
    """How the words of a document are stemmed, and how its lexemes are marked in the index."""

    name: (
        str | None
    )  # a text search configuration of Postgres, or a code without one; None: there are no words
    configuration: str | None
    tag: str  # empty for the language of the index

    @property
    def marker(self) -> str:
        """The lexeme of every chunk of this language, in the syntax of tsquery."""
        return f"'{languages.marker(self.tag)}'"


def own(build: Build) -> Language:
    """The language of documents that name none, or an unknown one."""
    return Language(name=build.language, configuration=build.language, tag="")


def of(build: Build, name: str) -> Language:
    """A language of a build."""
    return Language(
        name=name, configuration=languages.configuration(name), tag=languages.tag(name, build.language)
    )


def of_revisions(connection: Connection, build: Build, revs: Sequence[int]) -> Mapping[int, Language]:
    """The languages of revisions that name one, by revision; notes them for searches of the build.

    An unknown name is that of the index, and is logged once in a process.
    """
    if build.language_field is None or build.language is None or not revs:
        return {}
    rows = connection.execute(
        statement("languages.sql", "of_revisions"), _path(build) | {"revs": list(revs)}
    ).fetchall()
    known = known_configurations(connection) if rows else ()
    names = {value: languages.named(value, known) for _, value in rows}
    if None in names.values():
        events.unknown_language(build.index, build.language_field)
    found = {rev: of(build, name) for rev, value in rows if (name := names[value]) is not None}
    others = sorted({language.name for language in found.values() if language.tag and language.name})
    if others and build.build > 0:  # not a sample, whose tables go with its session
        connection.execute(statement("languages.sql", "note"), {"build": build.build, "languages": others})
    return found


def noted(connection: Connection, build: Build) -> list[Language]:
    """The languages of a build other than its own."""
    rows = connection.execute(statement("languages.sql", "noted"), {"build": build.build})
    return [of(build, name) for (name,) in rows]


def named(connection: Connection, build: Build) -> tuple[list[str], dict[str, int]]:
    """The languages that documents of a build name, other than its own, and documents by unknown name."""
    if build.language_field is None:
        return [], {}
    known = known_configurations(connection)
    rows = connection.execute(build.sql("languages.sql", "named"), _path(build)).fetchall()
    names = {value: languages.named(value, known) for value, _ in rows}
    unknown = {value: documents for value, documents in rows if names[value] is None}
    return sorted({name for name in names.values() if name not in (None, build.language)}), unknown


def known_configurations(connection: Connection) -> Collection[str]:
    """The text search configurations of the server."""
    return {name for (name,) in connection.execute(statement("languages.sql", "known"))}


def asked(connection: Connection, build: Build, filter: Mapping[str, Any] | None) -> list[Language]:
    """The languages that a question is searched in: those of the build, or the one that the filter names."""
    if build.language_field is None:
        return [own(build)]
    value = (filter or {}).get(build.language_field)
    if isinstance(value, str):
        name = languages.named(value, known_configurations(connection))
        return [own(build) if name is None else of(build, name)]
    return [own(build), *(of(build, name) for name in build.languages)]


def _path(build: Build) -> dict[str, list[str]]:
    assert build.language_field is not None
    return {"path": build.language_field.split(".")}
