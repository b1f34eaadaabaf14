"""Exit codes of commands and workers."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a process ended, for scripts and supervisors."""

    meaning: str  # in Markdown

    def __new__(cls, code: int, meaning: str = "") -> "ExitCode":
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    DONE = 0, "Success. A worker ends with it after SIGTERM."
    FAILED = (
        1,
        "The command ran, and something in it failed, such as a document. The table below has the cases.",
    )
    REFUSED = (
        2,
        "Wrong usage, wrong input or wrong settings: a restart fails in the same way, so correct it first.",
    )
    UNREACHABLE = 3, "Postgres, the broker, a provider or the workers do not answer: try again later."
    STUCK = 75, "A worker stayed connected but took no messages for 90 s, and ended itself: start it again."
    INTERRUPTED = 130, "Interrupted with Ctrl-C (128 + SIGINT, as shells report it)."
