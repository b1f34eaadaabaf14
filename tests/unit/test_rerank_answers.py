"""What a reranker answers becomes one score for each passage, or a sentence."""

import json
from typing import Any

import pytest

from worker.backends.llm.judge import judged
from worker.backends.rerank import HTTPRerankBackend, scores_of
from worker.errors import SettingsError


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"index": 0, "score": 1}, {"index": 2, "score": 2}], "a score for passage 2, and was sent 2"),
        ([{"index": -1, "score": 1}, {"index": 0, "score": 2}], "a score for passage -1, and was sent 2"),
        ([{"index": "0", "score": 1}], "a score for passage 0, and was sent 2"),
        ([{"score": 1}, {"score": 2}], "a score for passage None, and was sent 2"),
        ([{"index": 1, "score": 1}, {"index": 1, "score": 2}], "two scores for passage 1"),
        (
            [{"index": 0, "score": float("nan")}, {"index": 1, "score": 1}],
            "the score of passage 0 is no number",
        ),
        ([{"index": 0, "score": "high"}, {"index": 1, "score": 1}], "the score of passage 0 is no number"),
        ([{"index": 0, "score": None}, {"index": 1, "score": 1}], "the score of passage 0 is no number"),
        ([{"index": 0, "score": 1}], "scores for 1 of 2 passages"),
        ([], "scores for 0 of 2 passages"),
    ],
)
def test_a_wrong_answer_says_what_is_wrong(rows: list[dict[str, Any]], reason: str) -> None:
    for answer in (rows, {"results": rows}, {"data": rows}):
        with pytest.raises(ValueError, match=reason):
            scores_of(answer, 2)


def test_scores_come_in_the_order_of_the_passages() -> None:
    rows = [{"index": 1, "relevance_score": 2}, {"index": 0, "relevance_score": -1.5}]
    assert scores_of({"results": rows}, 2) == [-1.5, 2.0]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("[7, 0.5]", [0.7, 0.05]),
        ("```json\n[10, 0]\n```", [1.0, 0.0]),
        ("Passage [1] is best, passage [2] is off topic: [9, 1]", [0.9, 0.1]),
        ('{"scores": [3, 4]}', [0.3, 0.4]),
        ("[7]", None),
        ("[7, 11]", None),
        ("[7, NaN]", None),
        ('[7, "8"]', None),
        ("[true, false]", None),
        ("I cannot say.", None),
    ],
)
def test_the_judgement_of_a_chat_model_is_the_last_list_of_as_many_numbers(
    reply: str, expected: list[float] | None
) -> None:
    assert judged(reply, 2) == (expected and pytest.approx(expected))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "has no usable api_base"),
        ({"init_kwargs": {"api_base": "jina.ai"}}, "has no usable api_base"),
        (
            {"init_kwargs": {"api_base": "http://x", "url": 1}},
            "has 'url', which has no effect: use api_base, form",
        ),
        ({"init_kwargs": {"api_base": "http://x"}}, "MODEL_ID of rerank backend 'r' is missing"),
        (
            {"init_kwargs": {"api_base": "http://x", "form": "jina"}},
            "unknown form: choose cohere, voyage, tei",
        ),
        ({"init_kwargs": {"api_base": "http://x", "headers": {"a": 1}}}, "headers that are no strings"),
        ({"init_kwargs": {"api_base": "http://x", "key": 7}}, "a key of type int"),
    ],
)
def test_a_mistake_in_the_settings_is_one_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        HTTPRerankBackend(name="r", **arguments)


def test_a_secret_in_the_wrong_place_is_not_quoted() -> None:
    secret = "jina_0123456789abcdef"
    with pytest.raises(SettingsError) as caught:
        HTTPRerankBackend(name="r", model_id="m", init_kwargs=json.loads(json.dumps({"api_base": secret})))
    assert secret not in str(caught.value)
