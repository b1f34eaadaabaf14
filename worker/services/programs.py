"""Programs that an unprivileged user can run, wherever root has installed them."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp

from worker.errors import SettingsError

COPIES = Path("/var/cache/vector-index")  # root writes it, everybody may read it


def closed_folder(path: Path) -> Path | None:
    """Return the first folder, from the path upwards, that others than its owner may not enter."""
    return next((folder for folder in (path, *path.parents) if not folder.stat().st_mode & 0o001), None)


def open_to_all(root: Path, parts: Sequence[Path]) -> Path:
    """Return `root`, or a copy of its `parts` if others than root may not enter it, as below /root.

    The parts are existing paths relative to the root. They are copied once per installation. Raises SettingsError when
    that fails.
    """
    if (closed := closed_folder(root / parts[0])) is None:
        return root
    copy = COPIES / f"{parts[0].name}-{(root / parts[0]).stat().st_mtime_ns:x}"
    try:
        if not copy.exists():
            _copy(root, parts, copy)
    except OSError as error:
        raise SettingsError(
            f"the embedded servers do not run as root, and others may not enter {closed}, where their programs are; "
            f"a copy in {COPIES} failed ({error.strerror}); install into a folder that everybody may enter"
        ) from error
    return copy


def _copy(root: Path, parts: Sequence[Path], copy: Path) -> None:
    """Copy under another name until it is complete: a start may be killed half-way."""
    COPIES.mkdir(parents=True, exist_ok=True)
    new = Path(mkdtemp(dir=COPIES))
    try:
        for part in parts:
            shutil.copytree(root / part, new / part, symlinks=True)
        for path in (new, *new.rglob("*")):
            if not path.is_symlink():
                path.chmod(
                    path.stat().st_mode | (0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444)
                )
        new.rename(copy)
    except OSError:
        if not copy.exists():  # made by another process meanwhile
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
