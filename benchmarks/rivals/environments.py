"""The environments of rivals: each has its own, with the versions of a file in `requirements/`.

`uv` makes them where it is installed, otherwise `venv` and `pip`.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / ".venv" / "rivals"
TIKTOKEN_FILE = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"  # cl100k_base; wheels of three rivals bring it


def python(folder: Path, name: str) -> Path:
    return folder / name / "bin" / "python"


def tokens(folder: Path, name: str) -> Path:
    """The folder where tiktoken finds its data without the internet."""
    return folder / name / "tiktoken"


def make(folder: Path, name: str) -> None:
    """Make the environment, unless it exists with these versions."""
    requirements = HERE / "requirements" / f"{name}.txt"
    made = folder / name / "made-from.txt"
    if made.exists() and made.read_text() == requirements.read_text():
        return
    print(f"Making the environment of {name} in {folder / name}.", file=sys.stderr, flush=True)
    shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    _install(folder / name, requirements)
    run([python(folder, name), "-m", "compileall", "-q", folder / name / "lib"], check=False)
    tokens(folder, name).mkdir()
    if found := next((folder / name).glob(f"lib/**/{TIKTOKEN_FILE}"), None):
        shutil.copy(found, tokens(folder, name))
    made.write_text(requirements.read_text())


def _install(place: Path, requirements: Path) -> None:
    # --no-deps: the file has all packages but those that are large and that nothing here imports, such as torch
    if uv := shutil.which("uv"):
        run([uv, "venv", "--quiet", "--no-config", "--python", sys.executable, place])
        # copied: nltk refuses data that is linked from elsewhere
        options: list[str | Path] = [
            "--quiet",
            "--no-deps",
            "--link-mode",
            "copy",
            "--python",
            place / "bin" / "python",
        ]
        run([uv, "pip", "install", *options, "-r", requirements])
        return
    run([sys.executable, "-m", "venv", place])
    pip: list[str | Path] = [
        place / "bin" / "python",
        "-m",
        "pip",
        "install",
        "-qq",
        "--disable-pip-version-check",
    ]
    run([*pip, "--no-deps", "-r", requirements])


def run(command: Sequence[str | Path], *, check: bool = True) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, check=check, env=environment, stdout=sys.stderr)
