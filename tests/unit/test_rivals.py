"""The comparison with rivals: tables, choice of scenarios, documents, and the stand-in for a provider."""

import json
import urllib.error
import urllib.request

import pytest

from benchmarks.rivals import corpus, standin
from benchmarks.rivals.contestants import Entry
from benchmarks.rivals.provider import Noise, Provider, Refused
from benchmarks.rivals.runs import groups
from benchmarks.rivals.scenarios import SCENARIOS, chosen
from benchmarks.rivals.table import percentile, summarised, tables


def row(contender: str, rate: float, **more: object) -> dict[str, object]:
    return {
        "contender": contender,
        "scenario": "bulk",
        "what": "documents",
        "latency_ms": 50,
        "rate": rate,
    } | more


def test_table_has_medians_and_the_fastest_first() -> None:
    rows = [row("slow", rate) for rate in (1, 9, 2)] + [row("fast", rate) for rate in (8, 3, 4)]
    found = summarised(rows)
    assert [(line["contender"], line["runs"], line["rate"]) for line in found] == [
        ("fast", 3, 4),
        ("slow", 3, 2),
    ]
    assert [line["times_slower"] for line in found] == [1, 2]


def test_table_of_latencies_has_the_shortest_median_first() -> None:
    rows = [row("slow", 1) | {"rate": None, "p50_ms": 30.0}, row("fast", 1) | {"rate": None, "p50_ms": 10.0}]
    assert [(line["contender"], line["times_slower"]) for line in summarised(rows)] == [
        ("fast", 1),
        ("slow", 3),
    ]


def test_table_leaves_failed_runs_out_and_says_why() -> None:
    rows = [row("one", 10), {**row("one", 0), "error": "it took too long"}]
    assert summarised(rows)[0]["rate"] == 10
    assert tables(rows).endswith("one failed: it took too long")
    assert tables(rows[1:]).endswith("documents\n\none failed: it took too long")


def test_table_leaves_out_columns_that_nobody_has() -> None:
    assert "p50 ms" not in tables([row("one", 10)])
    assert "p50 ms" in tables([row("one", 10, p50_ms=12.0), row("two", 5)])


def test_tables_are_one_for_each_scenario_and_latency() -> None:
    rows = [row("one", 10), {**row("one", 10), "latency_ms": 200}]
    assert [text.splitlines()[0] for text in tables(rows).split("\n\n")[::2]] == [
        "bulk, 50 ms a request: documents",
        "bulk, 200 ms a request: documents",
    ]


def test_percentile_is_a_value_of_the_list() -> None:
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([3, 1, 2], 0.95) == 3


def test_scenarios_are_run_in_their_order_with_the_one_that_fills_the_database_first() -> None:
    found = chosen(["single", "changed", "bulk", "unchanged"])
    assert [[scenario.name for scenario in group] for group in groups(found)] == [
        ["bulk", "unchanged", "changed"],
        ["single"],
    ]


@pytest.mark.parametrize("text", ["none", "ours:none"])
def test_unknown_contender_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(SystemExit, match=r"unknown contender .*sketch"):
        Entry.parse(text)


def test_unknown_scenario_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SystemExit, match=r"unknown scenario \['none'\]; there are bulk"):
        chosen(["none"])


def test_contender_is_named_with_its_variant_unless_it_is_the_usual_one() -> None:
    assert [str(Entry.parse(text)) for text in ("pgai", "pgai:c10", "pgai:c1")] == ["pgai", "pgai", "pgai:c1"]
    assert [str(Entry.parse(text)) for text in ("ours", "ours:outbox")] == ["ours", "ours:outbox"]


def test_one_document_in_a_hundred_changes() -> None:
    before = [{"id": str(number), "text": f"One.\nTwo {number}.\nThree."} for number in range(200)]
    after = corpus.changed(before)
    assert sum(one != two for one, two in zip(before, after, strict=True)) == 2
    assert after[50]["text"] == "One.\nTwo 50.\nThis sentence came with revision 1.\nThree."


def test_scenarios_that_change_documents_name_the_one_that_writes_them() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert all(scenario.after is None or scenario.after in names for scenario in SCENARIOS)


def test_vector_of_the_stand_in_depends_on_the_text_alone_and_is_the_same_in_both_formats() -> None:
    provider = Provider(8)
    provider.noise = Noise(8)
    asked = {"input": ["one", "two", "one"]}
    vectors = [found["embedding"] for found in json.loads(provider.embed(asked))["data"]]
    assert vectors[0] == vectors[2] != vectors[1]
    packed = json.loads(provider.embed({**asked, "encoding_format": "base64"}))["data"][0]["embedding"]
    import base64
    import struct

    assert struct.unpack("<8f", base64.b64decode(packed)) == pytest.approx(vectors[0], abs=1e-6)


@pytest.mark.parametrize("texts", [[], [""], ["long " * 7_000], ["word"] * 2_049, ["long " * 6_000] * 41])
def test_stand_in_enforces_the_limits_of_the_api(texts: list[str]) -> None:
    with pytest.raises(Refused):
        Provider(8).embed({"input": texts})


def test_stand_in_answers_counts_and_tells_its_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standin, "CEILING_SECONDS", 0.05)
    with standin.running() as provider:
        assert min(provider.ceiling().values()) > 100
        provider.reset(latency_seconds=0.05)
        request = urllib.request.Request(
            f"{provider.url}/embeddings", data=json.dumps({"input": "a text"}).encode(), method="POST"
        )
        with urllib.request.urlopen(request) as response:
            assert len(json.load(response)["data"][0]["embedding"]) == 1536
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(
                urllib.request.Request(f"{provider.url}/embeddings", data=b'{"input": []}')
            )
        counted = provider.counts()
        assert (counted["requests"], counted["refused"], counted["inputs"]) == (2, 1, 1)
