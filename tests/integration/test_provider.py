"""The stand-in provider is strict: it accepts only requests that OpenAI accepts."""

import base64
import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.provider import Provider


def call(url: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    try:
        connection.request(method, f"{address.path}{path}", None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def embed(provider: Provider, texts: object, **parameters: object) -> tuple[int, Any]:
    return call(provider.url, "POST", "/embeddings", {"model": "3-small", "input": texts, **parameters})


def vectors(answer: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.array([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in answer["data"]])


def test_base64_and_floats_carry_the_same_unit_vectors(provider: Provider) -> None:
    texts = ["the quick brown fox", "a"]
    _, encoded = embed(provider, texts, encoding_format="base64", dimensions=64)
    _, plain = embed(provider, texts, encoding_format="float", dimensions=64)
    assert vectors(encoded).shape == (2, 64)
    assert np.allclose(vectors(encoded), [item["embedding"] for item in plain["data"]])
    assert np.allclose(np.linalg.norm(vectors(encoded), axis=1), 1)
    assert [item["index"] for item in plain["data"]] == [0, 1]


def test_texts_with_equal_words_are_nearer_than_others(provider: Provider) -> None:
    texts = ["how to bake bread", "how to bake good bread at home", "tuning vacuum in Postgres"]
    _, answer = embed(provider, texts, encoding_format="base64")
    near, far = vectors(answer)[0] @ vectors(answer)[1], vectors(answer)[0] @ vectors(answer)[2]
    assert near > far + 0.2


def test_the_stand_in_counts_embedded_texts_and_repeats(provider: Provider) -> None:
    embed(provider, ["hello world", "hello world", "bye"])
    embed(provider, ["bye"])
    stats = provider.stats()
    assert (stats.requests, stats.inputs, stats.distinct, stats.repeated) == (2, 4, 2, 2)
    assert (stats.tokens, stats.max_inputs, stats.max_tokens) == (6, 3, 5)  # 2 + 2 + 1, and 1
    assert provider.times_embedded("bye") == 2
    assert call(provider.url, "GET", "/stats")[1]["repeated"] == 2


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["fine", ""], "empty string"),
        ([], "non-empty array"),
        ([1, 2], "array of strings"),
        (["a"] * 2_049, "maximum length 2048"),
        (["fine", "a " * 8_192], "maximum context length is 8191"),
        (["a " * 8_000] * 38, "max 300000 tokens per request"),
        (["fine", "some POISON here"], "content policy"),
    ],
)
def test_one_invalid_input_fails_the_whole_request(
    provider: Provider, texts: list[object], said: str
) -> None:
    provider.refuse = "POISON"
    status, answer = embed(provider, texts)
    assert status == 400
    assert said in answer["error"]["message"]
    assert (provider.stats().refused, provider.stats().inputs) == (1, 0)


def test_requests_exactly_at_the_limits_are_accepted(provider: Provider) -> None:
    assert embed(provider, ["a" + " a" * 8_190], dimensions=8)[1]["usage"]["total_tokens"] == 8_191
    assert embed(provider, ["a"] * 2_048, dimensions=8)[0] == 200


def test_an_invalid_request_gets_an_error_in_openais_form(provider: Provider) -> None:
    assert call(provider.url, "POST", "/embeddings", {"input": "no model"})[0] == 400
    status, answer = call(provider.url, "GET", "/nowhere")
    assert (status, sorted(answer["error"])) == (404, ["code", "message", "param", "type"])


def test_the_stand_in_serves_concurrent_requests_each_after_the_latency(provider: Provider) -> None:
    provider.latency_seconds = 0.5
    start = time.monotonic()
    with ThreadPoolExecutor(12) as pool:
        statuses = [status for status, _ in pool.map(lambda at: embed(provider, [f"text {at}"]), range(12))]
    assert statuses == [200] * 12
    assert 0.5 <= time.monotonic() - start < 5  # in sequence they would take 6 s
    assert provider.stats().max_parallel > 6


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("unauthorized", 401, "invalid_api_key"),
        ("forbidden", 403, None),
        ("unknown_model", 404, "model_not_found"),
        ("too_large", 400, "context_length_exceeded"),
        ("request_too_large", 400, "max_tokens_per_request"),
        ("content_policy", 400, "content_policy_violation"),
        ("payload_too_large", 413, None),
        ("unprocessable", 422, None),
        ("out_of_quota", 429, "insufficient_quota"),
        ("rate_limited", 429, "rate_limit_exceeded"),
        ("server_error", 500, None),
        ("unavailable", 503, None),
        ("overloaded", 529, "overloaded_error"),
    ],
)
def test_an_injected_error_has_openais_form_and_embeds_nothing(
    provider: Provider, name: str, status: int, code: str | None
) -> None:
    provider.inject(name)
    found, answer = embed(provider, "fine")
    assert (found, answer["error"]["code"]) == (status, code)
    assert (provider.stats().refused, provider.stats().inputs) == (1, 0)
    assert embed(provider, "fine")[0] == 200  # the fault was for one request


def test_faults_happen_in_order_on_their_path_and_as_often_as_planned(provider: Provider) -> None:
    provider.inject("unavailable", path="/embeddings", times=2)
    provider.inject("server_error", path="/chat/completions", times=None)
    provider.inject("overloaded")
    assert [embed(provider, "fine")[0] for _ in range(4)] == [503, 503, 529, 200]
    asked = {"model": "m", "messages": [{"role": "user", "content": "Why?"}]}
    assert [call(provider.url, "POST", "/chat/completions", asked)[0] for _ in range(3)] == [500] * 3


def test_another_process_can_plan_faults_and_read_the_received_requests(provider: Provider) -> None:
    call(provider.url, "POST", "/faults", {"name": "rate_limited", "headers": {"retry-after": "7"}})
    assert embed(provider, "fine")[0] == 429
    (received,) = call(provider.url, "GET", "/requests")[1]["requests"]
    assert (received["path"], received["body"]["input"]) == ("/embeddings", "fine")
    call(provider.url, "POST", "/reset")
    assert call(provider.url, "GET", "/requests")[1] == {"requests": []}


def test_an_error_may_quote_the_key_and_the_text(provider: Provider) -> None:
    provider.inject("error", status=400, message="{key} sent {json}")
    headers = {"Authorization": "Bearer sk-mine"}
    body = {"model": "m", "input": "Grüße\n"}
    connection = http.client.HTTPConnection(urlsplit(provider.url).netloc, timeout=30)
    connection.request("POST", "/v1/embeddings", json.dumps(body), headers)
    assert (
        json.loads(connection.getresponse().read())["error"]["message"]
        == 'sk-mine sent "Gr\\u00fc\\u00dfe\\n"'
    )
    connection.close()
    assert provider.requests[0].key == "sk-mine"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("reversed", lambda data: [item["index"] for item in data] == [2, 1, 0]),
        ("one_missing", lambda data: len(data) == 2),
        ("floats", lambda data: all(isinstance(item["embedding"], list) for item in data)),
        ("garbled_base64", lambda data: all(len(base64.b64decode(i["embedding"])) % 4 for i in data)),
        ("not_a_number", lambda data: np.isnan(vectors({"data": data})[0]).any()),
        ("zeros", lambda data: not vectors({"data": data})[0].any()),
        ("wrong_dimension", lambda data: len(base64.b64decode(data[0]["embedding"])) == 4 * 7),
    ],
)
def test_vectors_can_be_wrong_in_the_ways_of_real_servers(provider: Provider, name: str, wrong: Any) -> None:
    provider.inject(name)
    _, answer = embed(provider, ["a", "b", "c"], encoding_format="base64", dimensions=8)
    assert wrong(answer["data"])
    _, answer = embed(provider, ["a", "b", "c"], encoding_format="base64", dimensions=8)
    assert not wrong(answer["data"])


def test_the_stand_in_can_refuse_optional_parameters(provider: Provider) -> None:
    provider.inject("no_base64", times=None)
    assert embed(provider, "a", encoding_format="base64")[0] == 400
    assert embed(provider, "a", encoding_format="float")[0] == embed(provider, "a")[0] == 200
    provider.reset()
    provider.inject("no_dimensions", times=None)
    assert embed(provider, "a", dimensions=8)[0] == 400
    assert embed(provider, "a")[0] == 200


ASKED: dict[str, dict[str, object]] = {
    "/chat/completions": {"messages": [{"role": "user", "content": "Why?"}]},
    "/responses": {"input": [{"role": "user", "content": "Why?"}]},
    "/completions": {"prompt": "Why?"},
}


def events(provider: Provider, path: str) -> list[str]:
    """Yield the events of a streamed answer as they arrive; passes errors of the connection on."""
    connection = http.client.HTTPConnection(urlsplit(provider.url).netloc, timeout=30)
    try:
        body = {"model": "m", "stream": True, "stream_options": {"include_usage": True}, **ASKED[path]}
        connection.request("POST", f"/v1{path}", json.dumps(body))
        return [line for line in connection.getresponse().read().decode().splitlines() if line[:5] == "data:"]
    finally:
        connection.close()


@pytest.mark.parametrize("path", ASKED)
def test_each_form_of_answer_arrives_whole_or_streamed_with_its_usage(provider: Provider, path: str) -> None:
    status, answer = call(provider.url, "POST", path, {"model": "m", **ASKED[path]})
    assert status == 200
    assert provider.answer in json.dumps(answer)
    assert answer["usage"]["total_tokens"] > 10
    streamed = events(provider, path)
    assert sum('"first "' in line for line in streamed) == 1
    assert any('"total_tokens"' in line for line in streamed)
    assert call(provider.url, "POST", path, {"model": "m"})[0] == 400


@pytest.mark.parametrize("path", ASKED)
def test_a_cut_stream_ends_normally_or_by_a_reset(provider: Provider, path: str) -> None:
    provider.inject("cut", after=2)
    shortened = events(provider, path)
    assert any('"answer "' in line for line in shortened)
    assert not any("stands" in line or "DONE" in line or "response.completed" in line for line in shortened)
    provider.inject("cut", after=2, abruptly=True)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        events(provider, path)


def test_a_hang_lasts_until_the_stand_in_is_closed() -> None:
    with Provider() as provider:
        provider.inject("hang")
        with ThreadPoolExecutor(1) as pool:
            hanging = pool.submit(embed, provider, "fine")
            with pytest.raises(TimeoutError):
                hanging.result(timeout=0.2)
            provider.__exit__(None, None, None)
            assert isinstance(hanging.exception(timeout=60), (http.client.HTTPException, ConnectionError))


def test_connections_are_counted(provider: Provider) -> None:
    embed(provider, "one client")
    embed(provider, "another client")
    assert provider.stats().connections == 2


def test_closing_ends_kept_alive_connections_and_leaves_no_thread() -> None:
    before = threading.active_count()
    with Provider() as provider:
        address = urlsplit(provider.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        for _ in range(2):  # one connection
            connection.request("GET", "/stats")
            connection.getresponse().read()
    connection.close()
    assert threading.active_count() == before


def test_the_stand_in_counts_as_a_separate_process() -> None:
    command = [sys.executable, "-m", "tests.provider", "--latency", "0.01", "--dimensions", "8"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            _, answer = call(url, "POST", "/embeddings", {"model": "m", "input": "once"})
            assert len(answer["data"][0]["embedding"]) == 8
            assert call(url, "GET", "/stats")[1]["inputs"] == 1
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0
