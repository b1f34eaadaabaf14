"""The code of workers and tasks, parsed, for pages that list what the code says."""

import ast
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def modules() -> Mapping[str, ast.Module]:
    """Return each module by the path of its file."""
    files = [*ROOT.glob("worker/**/*.py"), *ROOT.glob("tasks/*.py")]
    return {
        str(file.relative_to(ROOT)): ast.parse(file.read_text(encoding="utf-8")) for file in sorted(files)
    }


@cache
def nodes(tree: ast.AST) -> Sequence[ast.AST]:
    """Return a node and all below it. The pages walk the same trees again and again."""
    return list(ast.walk(tree))
