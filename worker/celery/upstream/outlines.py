"""Fingerprints of code, which differ if the code does anything else, and not if it is formatted in another way."""

import ast
import inspect
from functools import cached_property
from hashlib import sha256
from typing import Any


def fingerprint(code: Any) -> str:
    """Hash a function without comments, docstrings and formatting. "" if it has no source."""
    try:
        return sha256(outline(code).encode()).hexdigest()[:16]
    except (OSError, TypeError, SyntaxError):
        return ""


def outline(code: Any) -> str:
    """Write out the syntax tree of a function. Raises OSError or TypeError if it has no source."""
    if isinstance(code, cached_property):
        code = code.func
    source = inspect.getsource(code)
    # The frame makes the indentation of a method valid. Dedenting would not: its docstring may have none.
    return _outline(ast.parse(f"if True:\n{source}" if source[:1].isspace() else source))


def _outline(node: object) -> str:
    """Write out a node, the same on every version of Python."""
    if isinstance(node, list):
        return f"[{','.join(map(_outline, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if (
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and ast.get_docstring(node) is not None
    ):
        fields["body"] = fields["body"][1:]
    # newer versions have fields that older ones lack, empty unless their syntax is used
    written = [
        f"{name}={_outline(value)}" for name, value in fields.items() if value is not None and value != []
    ]
    return f"{type(node).__name__}({','.join(written)})"
