"""Where reindexing reads documents from. A source is a class that the settings name by its dotted path."""

from collections.abc import Iterator
from typing import Any, Protocol


class Source(Protocol):
    """A class of ours or of a user; it is made with the keys of its CONFIG, in small letters, as keywords.

    Raises SettingsError then for a CONFIG that it cannot use.
    """

    def documents(self) -> Iterator[Any]:
        """All documents of the source, as `tasks.index_documents` takes them, one at a time.

        Whatever it raises ends the run, and nothing is deleted.
        """
