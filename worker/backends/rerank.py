"""The rerank backend for every server with the HTTP API of Cohere's reranker, and for those of Voyage and TEI.

| form | request | answer |
| --- | --- | --- |
| cohere, jina, vLLM, Infinity, LiteLLM | model, query, documents, top_n | {"results": [{"index", "relevance_score"}]} |
| voyage | model, query, documents, top_k | {"data": [{"index", "relevance_score"}]} |
| tei | query, texts, truncate | [{"index", "score"}] |

Sources: docs.cohere.com/reference/rerank, docs.voyageai.com/reference/reranker-api, the OpenAPI of TEI (POST /rerank).
"""

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from math import isfinite
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from worker.backends.failures import UnexpectedAnswer, classify
from worker.backends.llm.deadline import call_with_timeout
from worker.errors import ProviderUnavailable, SettingsError, VectorIndexError
from worker.tokens import ESTIMATE, counter

if TYPE_CHECKING:
    import httpx2

__all__ = ["HTTPRerankBackend"]

FORMS = ("cohere", "voyage", "tei")
DEFAULT_TOKEN_LIMIT = 512  # of the smallest known rerankers: bge-reranker-base, ms-marco-MiniLM
DEFAULT_BATCH_SIZE, TEI_BATCH_SIZE = 100, 32
ATTRIBUTES = ("api_base", "form", "headers", "key")


class HTTPRerankBackend:
    """One entry of RERANK_BACKENDS: a server with one of the three forms of the API. Safe in threads.

    Raises SettingsError for a missing address or model, and for an attribute of INIT_KWARGS that does not exist.
    """

    model_id: str
    token_limit: int  # tokens of the question and one passage together
    batch_size: int  # passages of one request

    def __init__(
        self,
        *,
        name: str,
        model_id: str = "",
        init_kwargs: Mapping[str, Any] | None = None,
        token_limit: int | None = None,
        batch_size: int | None = None,
        tokenizer: str | None = None,
        timeout_seconds: float = 5.0,
        **_: object,
    ) -> None:
        given = _checked(name, init_kwargs or {})
        self._base = given["api_base"].rstrip("/").removesuffix("/rerank")
        self._form = given.get("form") or _usual_form(self._base)
        if not model_id and self._form != "tei":
            raise SettingsError(
                f"MODEL_ID of rerank backend {name!r} is missing: set it to the reranker, as its server calls it"
            )
        self._key = given.get("key")
        self._headers = dict(given.get("headers") or {})
        self.model_id = model_id or "tei"
        self.token_limit = token_limit or DEFAULT_TOKEN_LIMIT
        self.batch_size = batch_size or (TEI_BATCH_SIZE if self._form == "tei" else DEFAULT_BATCH_SIZE)
        self.count_tokens = counter(tokenizer or ESTIMATE)
        self._timeout_seconds = timeout_seconds
        # a child process cannot share the connections of its parent
        self._client = lru_cache(maxsize=2)(self._make_client)

    def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Send one request, and return the score of each text.

        Raises TooLarge, Refused, ProviderUnavailable or SettingsError, as `failures.classify` decides, and
        ProviderUnavailable for an answer that does not have exactly one finite score for each text.
        """
        failure: VectorIndexError | None = None
        try:
            answer = call_with_timeout(self._timeout_seconds, partial(self._post, query, texts))
        except Exception as error:  # noqa: BLE001 - the client may raise anything, and classify decides
            failure = classify(
                error,
                model_id=self.model_id,
                texts=[query, *texts],
                secrets=[*filter(None, [self._key]), *self._headers.values()],
            )
        # raised outside the handler, since the traceback may hold the request
        if failure:
            raise failure
        try:
            return scores_of(answer, len(texts))
        except ValueError as error:
            raise ProviderUnavailable(
                f"{self.model_id}: the answer cannot be used, as {error}; check api_base and form of INIT_KWARGS"
            ) from None

    def _post(self, query: str, texts: Sequence[str]) -> object:
        url = f"{self._base}/rerank"
        response = self._client(os.getpid()).post(url, json=self._body(query, texts))
        response.raise_for_status()
        try:
            body: object = response.json()
        except ValueError:
            body = response.text
        if _rows(body) is None:
            raise UnexpectedAnswer("the answer has no list of scores", body=body, url=url)
        return body

    def _body(self, query: str, texts: Sequence[str]) -> dict[str, object]:
        if self._form == "tei":
            return {"query": query, "texts": list(texts), "truncate": True}
        number = "top_k" if self._form == "voyage" else "top_n"
        return {"model": self.model_id, "query": query, "documents": list(texts), number: len(texts)}

    def _make_client(self, pid: int) -> "httpx2.Client":
        import openai  # takes a second, which only a process pays that reranks

        key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        # a redirect would send the question to any host that it names
        return openai.DefaultHttpxClient(
            headers={**key, **self._headers}, timeout=self._timeout_seconds, follow_redirects=False
        )


def scores_of(answer: object, number: int) -> list[float]:
    """Return the scores of an answer in the order of the texts. Raises ValueError, which says what is wrong with it."""
    rows = _rows(answer)
    scores: dict[int, float] = {}
    for row in rows or ():
        index, score = row.get("index"), row.get("relevance_score", row.get("score"))
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < number:
            raise ValueError(f"it has a score for passage {str(index)[:20]}, and was sent {number}")
        if index in scores:
            raise ValueError(f"it has two scores for passage {index}")
        if isinstance(score, bool) or not isinstance(score, int | float) or not isfinite(score):
            raise ValueError(f"the score of passage {index} is no number")
        scores[index] = float(score)
    if len(scores) < number:
        raise ValueError(f"it has scores for {len(scores)} of {number} passages")
    return [scores[at] for at in range(number)]


def _rows(answer: object) -> list[Mapping[str, Any]] | None:
    """The rows of an answer in any of the forms; `None` if it has none."""
    if isinstance(answer, Mapping):
        answer = answer.get("results", answer.get("data"))
    if isinstance(answer, list) and all(isinstance(row, Mapping) for row in answer):
        return answer
    return None


def _usual_form(base: str) -> str:
    host = urlsplit(base).hostname or ""
    return "voyage" if host.endswith(("voyageai.com", "ai.mongodb.com")) else "cohere"


def _checked(name: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check INIT_KWARGS. A wrong value may be a secret, so the messages hide it. Raises SettingsError."""
    owner = f"INIT_KWARGS of rerank backend {name!r}"
    unknown = sorted(str(key) for key in given.keys() - set(ATTRIBUTES))
    if unknown:
        raise SettingsError(
            f"{owner} has {unknown[0]!r:.100}, which has no effect: use {', '.join(ATTRIBUTES)}"
        )
    base = given.get("api_base")
    if not isinstance(base, str) or not base.startswith(("http://", "https://")):
        raise SettingsError(
            f"{owner} has no usable api_base: set it to the address of the server in front of /rerank, such as "
            "https://api.jina.ai/v1"
        )
    if given.get("form") not in (None, *FORMS):
        raise SettingsError(f"{owner} has an unknown form: choose {', '.join(FORMS)}")
    headers = given.get("headers")
    if headers is not None and not (
        isinstance(headers, Mapping) and all(isinstance(part, str) for part in (*headers, *headers.values()))
    ):
        raise SettingsError(f"{owner} has headers that are no strings: set them to an object of strings")
    if given.get("key") is not None and not (isinstance(given["key"], str) and given["key"]):
        raise SettingsError(
            f"{owner} has a key of type {type(given['key']).__name__}: set it to a string, or remove it"
        )
    return given
