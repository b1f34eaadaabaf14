"""Build hook: make the links of README.md work on a package index, where relative links lead nowhere.

If `[project.urls]` in pyproject.toml has a `Source`, links become addresses below it. Without one, a link becomes its
text with the path of the file, which the source distribution contains.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

RELATIVE = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")


class ReadmeHook(MetadataHookInterface):
    """Give the package the README with links that work there."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source", "")
        metadata["readme"] = {"content-type": "text/markdown", "text": with_links(text, source.rstrip("/"))}


def with_links(text: str, source: str) -> str:
    """Return the text with absolute links below `source`, or with paths in place of links where that is empty."""

    def replaced(link: re.Match[str]) -> str:
        image, label, target = link.groups()
        if not source:
            return f"{label} (`{target}`)"
        return f"{image}[{label}]({source}/{'raw' if image else 'blob'}/main/{target})"

    return RELATIVE.sub(replaced, text)
