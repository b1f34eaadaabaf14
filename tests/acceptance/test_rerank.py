"""Reranking as an operator sets it up: by the settings of an index, by argument, and in the commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.system import CHAT, STAGING
from tests.provider import Provider
from worker.errors import InvalidQuery

pytestmark = pytest.mark.slow

SETTINGS = """
VECTOR_INDEX = {{
    "RERANK_BACKENDS": {{
        "default": {{"CONFIG": {{"MODEL_ID": "m", "INIT_KWARGS": {{"api_base": "{url}", "key": "secret-of-rerank"}}}}}},
        "judge": {{
            "CLASS": "worker.backends.llm.LLMRerankBackend",
            "CONFIG": {{"MODEL_ID": "gpt-4o-mini", "INIT_KWARGS": {{"api_base": "{url}", "key": "secret-of-judge"}}}},
        }},
    }},
    "INDEXES": {{"default": {{"RERANK_BACKEND": "default"}}, "plain": {{}}}},
}}
"""
DOCUMENTS = [{"id": n, "text": f"Owl number {n} hunts at night."} for n in range(4)]


def test_an_index_reranks_by_its_settings_and_a_task_decides_otherwise(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    with Provider() as provider:
        provider.answer = "[1, 2, 3, 10]"
        (tmp_path / "ours.py").write_text(SETTINGS.format(url=provider.url))
        with start_system(
            tmp_path, {"all": ["worker"]}, VECTOR_INDEX_SETTINGS=str(tmp_path / "ours.py")
        ) as system:
            for index in ("default", "plain"):
                system.call("tasks.index_documents", STAGING, documents=DOCUMENTS, index=index)

            def ids(**arguments: Any) -> list[str]:
                rows = system.call("tasks.search", CHAT, query="owl number 2", **arguments)
                return [row["document_id"] for row in rows]

            plain = ids(rerank=False)
            assert (
                ids()
                == ids(index="plain", rerank=True)
                == ids(index="plain", rerank="default")
                == plain[::-1]
            )
            assert ids(index="plain") == plain
            assert ids(rerank="judge")[0] == plain[3]
            with pytest.raises(InvalidQuery, match="choose default, judge, true or false"):
                ids(rerank="nobody")
            answer = system.call("tasks.chat", CHAT, question="owl number 2", limit=2)
            assert [row["document_id"] for row in answer["sources"]] == plain[:1:-1]
            answer = system.call("tasks.chat", CHAT, question="owl number 2", limit=2, rerank=False)
            assert [row["document_id"] for row in answer["sources"]] == plain[:2]

            provider.answer = "[0, 1]"  # for the two sentences of doctor
            checks = {
                each["name"]: each for each in json.loads(system.command("doctor", "--json").stdout)["checks"]
            }
            assert "scored 2 passages" in checks["rerank default"]["detail"]
            assert "scored 2 passages" in checks["rerank judge"]["detail"]

            questions = tmp_path / "questions.jsonl"
            questions.write_text(json.dumps({"question": "owl number 2", "documents": [plain[0]]}))
            done = system.command("eval", str(questions), "--mode", "hybrid", "--rerank", "default", "--json")
            figures = json.loads(done.stdout)["modes"]
            assert [figures[name]["mrr@10"] for name in ("hybrid", "hybrid+rerank")] == [1.0, 0.25]

            newest = '{"decay": "date", "half_life_days": 30}'
            done = system.command("search", "owl number 2", "--no-rerank", "--boost", newest, "--explain")
            assert "date None x 1.0000" in done.stdout
            assert "owl" in done.stdout.partition("words")[2]
            done = system.command("search", "owl", "--boost", "date")
            assert (done.returncode, "--boost is 'date', which is not JSON" in done.stderr) == (2, True)

            provider.inject("error", path="/rerank", times=None, status=500)
            done = system.command("search", "owl number 2")
            assert done.stdout.startswith("not reranked: m: HTTP 500")
            assert ids() == plain
            done = system.command("eval", str(questions), "--mode", "hybrid", "--rerank", "default")
            assert "hybrid+rerank: 1 search was not reranked; the last error:" in done.stderr
            assert "secret-of" not in system.logs()
