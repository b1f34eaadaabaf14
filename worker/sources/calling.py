"""Calls the application's function in a process of its own; `worker.sources.callable` reads the other end.

The application's Python runs this file by its path, and may lack our packages: import only the standard library here.
Arguments: a file descriptor, a folder, `module:name`, and `call` or `find` (import only). It writes one line of JSON
for each document to the descriptor, and a last line with the outcome.
"""

import datetime
import decimal
import importlib
import json
import os
import sys
import threading
import traceback
import uuid
from typing import Any, TextIO


def main(descriptor: int, folder: str, target: str, mode: str) -> None:
    threading.Thread(target=leave_with_parent, daemon=True).start()
    # replaces the folder of this file, so that the application's modules win over all others of the same name
    sys.path[0] = folder
    with os.fdopen(descriptor, "w", encoding="ascii") as out:
        try:
            found = find(target)
            if mode == "call":
                write_documents(out, found())
            last: dict[str, object] = {"end": True}
        except BaseException as error:  # noqa: BLE001 - the worker reports whatever the application raises
            last = {"error": described(error, folder, target)}
        out.write(json.dumps(last) + "\n")


def find(target: str) -> Any:
    module, _, path = target.partition(":")
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    if not callable(found):
        raise TypeError(f"{type(found).__name__!r} object is not callable")
    return found


def write_documents(out: TextIO, documents: Any) -> None:
    for number, document in enumerate(documents, 1):
        try:
            line = json.dumps({"document": with_whole_numbers(document)}, default=plain)
        except (TypeError, ValueError, RecursionError) as error:
            given = document.get("id") if isinstance(document, dict) else None
            named = isinstance(given, (str, uuid.UUID)) or (
                isinstance(given, int) and given.bit_length() < 1000
            )
            id = str(given) if named else None
            line = json.dumps({"skipped": number, "reason": f"it is not JSON: {error}", "id": id})
        out.write(line + "\n")


def with_whole_numbers(document: Any) -> Any:
    """Return the document with an integer for each Decimal without a fraction as its id or version."""
    if not isinstance(document, dict):
        return document
    whole = {
        name: int(value)
        for name in ("id", "version")
        if isinstance(value := document.get(name), decimal.Decimal)
        and value.is_finite()
        and value.adjusted() < 1000  # else `json` refuses it
        and value == int(value)
    }
    return {**document, **whole}


def plain(value: object) -> str:
    """Encode dates, decimals and UUIDs as Django's JSON encoder does."""
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, uuid.UUID)):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__}")


def described(error: BaseException, folder: str, target: str) -> str:
    """Return the error's type, the first line of its message, and the line of code."""
    first_line = (str(error).strip().splitlines() or [""])[0][:200]
    module = target.partition(":")[0]
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
        return f"there is no module {error.name!r} in {folder}; set FOLDER to the folder that holds it"
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {first_line} ({os.path.basename(at.filename)}, line {at.lineno})"


def leave_with_parent() -> None:
    """Exit when the worker dies: it holds the other end of the standard input, which closes then."""
    # os.read, because Python aborts at exit while a thread reads from `sys.stdin`
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
