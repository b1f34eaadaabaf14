"""Why an answer ended: the words of OpenAI, its imitators and the plugins of llm, as one FinishReason."""

from collections.abc import Mapping
from typing import Any

from worker.chat_results import FinishReason

# in the order of search; the names of OpenAI, Anthropic, Gemini and Ollama
FIELDS = ("finish_reason", "stop_reason", "finishReason", "done_reason", "reason", "status")
WORDS: Mapping[FinishReason, tuple[str, ...]] = {
    "stop": (
        "stop",
        "end_turn",
        "eos",
        "eos_token",
        "stop_sequence",
        "completed",
        "complete",
        "end",
        "finish",
    ),
    "length": (
        "length",
        "max_tokens",
        "max_output_tokens",
        "model_length",
        "model_context_window_exceeded",
        "incomplete",
    ),
    "content_filter": (
        *(
            "content_filter",
            "content_filtered",
            "safety",
            "recitation",
            "blocklist",
            "prohibited_content",
            "spii",
        ),
        *("guardrail_intervened", "moderation", "sensitive", "blocked", "filtered", "error_toxic"),
    ),
    "refusal": ("refusal", "refused"),
    "tool_calls": ("tool_calls", "tool_call", "function_call", "tool_use", "malformed_function_call"),
}
_REASONS = {word: reason for reason, words in WORDS.items() for word in words}


def told(response: Mapping[str, Any]) -> str | None:
    """The finish reason as the provider says it; `None` without one.

    Without one, the stream of an OpenAI class broke off. Other plugins may leave it out.
    """
    if _refuses(response):
        return "refusal"
    details = response.get("incomplete_details")  # of the Responses API: says more than its status
    holders = [details, response, *(_first(response.get(name)) for name in ("choices", "candidates"))]
    words = (holder.get(name) for holder in holders if isinstance(holder, Mapping) for name in FIELDS)
    return next((word for word in words if isinstance(word, str) and word), None)


def finish_reason(reason: str | None) -> FinishReason:
    """Read a provider's word. Gemini writes `content_filter: SAFETY`, others write in capitals or with hyphens."""
    word = (reason or "").partition(":")[0].strip().lower().replace("-", "_").replace(" ", "_")
    return _REASONS.get(word, "unknown")


def _refuses(response: Mapping[str, Any]) -> bool:
    """Whether a response of the Responses API has a refusal among its parts."""
    items = response.get("output")
    return any(
        isinstance(part, Mapping) and part.get("type") == "refusal"
        for item in (items if isinstance(items, list) else [])
        if isinstance(item, Mapping)
        for part in item.get("content") or []
    )


def _first(values: Any) -> Any:
    return values[0] if isinstance(values, list) and values else None
