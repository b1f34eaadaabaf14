"""What a server does not take of a request, although nothing is lost without it: learnt from its refusals.

Servers that imitate OpenAI know fewer parameters, and say so in all kinds of words. A backend sends the next request in
the dialect that the refusal asks for, and keeps to it once that has worked.
"""

import re
from dataclasses import dataclass, replace

# the word for a refusal of a parameter; a message that merely names one, such as a rate limit, refuses nothing
_REFUSED = re.compile(
    r"\bnot? (yet |currently )?(\w+ )?(support|allow|permit|enabl|available|implement|recogni|accept|valid|one of)"
    r"|unsupported|(n't|not) (support|accept|know|recogni)|unknown|unrecogni[sz]ed|unexpected|\bextra|invalid|must"
    r"|should|cannot|can't|disabled|forbidden|prohibited|\bonly\b|\bunable|不支持|不支援",
    re.IGNORECASE,
)
_STREAM_OPTIONS = re.compile(r"stream_?options|include_?usage", re.IGNORECASE)
_NEW_LIMIT = re.compile(r"max_completion_tokens", re.IGNORECASE)
_STREAM = re.compile(r"\bstream(ing|ed|s)?\b(?!_)|流式|串流", re.IGNORECASE)
_ROLES = re.compile(
    r"\bsystem\b.{0,60}\b(role|message|prompt|instruction)|\b(role|message|prompt|instruction)s?\b.{0,60}\bsystem\b"
    r"|developer (instruction|message|role)|roles? must alternate|unknown variant .{0,3}system"
    r"|only .{0,40}\buser\b.{0,40}\bassistant\b|first message .{0,40}\buser\b|\bsystem 角色|系统角色",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What a server takes: at first, all that OpenAI takes."""

    stream_options: bool = True  # without them, a stream has no usage, and the tokens are counted here
    stream: bool = True  # without it, the answer arrives in one piece
    system: bool = True  # without it, the system message is the start of the first message of the user
    max_tokens: bool = True  # without it, the same number is called max_completion_tokens

    def after(self, refusal: str) -> "Dialect | None":
        """The dialect that this refusal asks for; `None` if it is about something else."""
        if not (_REFUSED.search(refusal) or _ROLES.search(refusal)):
            return None
        if self.stream and self.stream_options and _STREAM_OPTIONS.search(refusal):
            return replace(self, stream_options=False)
        if self.max_tokens and _NEW_LIMIT.search(refusal):
            return replace(self, max_tokens=False)
        if self.stream and _STREAM.search(refusal):
            return replace(self, stream=False)
        if self.system and _ROLES.search(refusal):
            return replace(self, system=False)
        return None


def named(refusal: str, options: set[str]) -> str | None:
    """The option that a refusal is about, if it names one."""
    if not _REFUSED.search(refusal) and not re.search(
        r"too (large|high|low|big|small)|exceed|range|between", refusal
    ):
        return None
    words = set(re.findall(r"[a-z]+(?:_[a-z]+)*", refusal.lower()))
    if words & {"max_completion_tokens", "max_output_tokens", "max_new_tokens"}:
        words.add("max_tokens")
    if words & {"response_format", "json_schema"}:
        words |= {"json_object", "schema"}
    return next((option for option in sorted(options) if option in words), None)
