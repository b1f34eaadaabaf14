"""The stand-in is a strict provider: what it lets pass, OpenAI lets pass."""

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

from tests.fixtures.provider import running_provider  # noqa: F401
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


def test_counts_what_it_embedded_and_what_it_embedded_again(provider: Provider) -> None:
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
def test_refuses_the_whole_request_for_one_bad_input_and_embeds_nothing(
    provider: Provider, texts: list[object], said: str
) -> None:
    provider.refuse = "POISON"
    status, answer = embed(provider, texts)
    assert status == 400
    assert said in answer["error"]["message"]
    assert (provider.stats().refused, provider.stats().inputs) == (1, 0)


def test_takes_what_is_exactly_at_the_limits(provider: Provider) -> None:
    assert embed(provider, ["a" + " a" * 8_190], dimensions=8)[1]["usage"]["total_tokens"] == 8_191
    assert embed(provider, ["a"] * 2_048, dimensions=8)[0] == 200


def test_what_is_no_request_gets_an_error_in_the_shape_of_openai(provider: Provider) -> None:
    assert call(provider.url, "POST", "/embeddings", {"input": "no model"})[0] == 400
    status, answer = call(provider.url, "GET", "/nowhere")
    assert (status, sorted(answer["error"])) == (404, ["code", "message", "param", "type"])


def test_serves_many_requests_at_once_each_after_the_latency(provider: Provider) -> None:
    provider.latency_seconds = 0.2
    start = time.monotonic()
    with ThreadPoolExecutor(12) as pool:
        statuses = [status for status, _ in pool.map(lambda at: embed(provider, [f"text {at}"]), range(12))]
    assert statuses == [200] * 12
    assert 0.2 <= time.monotonic() - start < 1.2  # one after the other: 2.4 s
    assert provider.stats().max_parallel > 6


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


def test_as_a_process_of_its_own_it_counts_for_whoever_asks() -> None:
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
