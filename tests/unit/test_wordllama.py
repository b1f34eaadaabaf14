"""The default model returns the vectors of the wordllama package without importing it."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import llm
import numpy as np
import pytest

from worker import model_files
from worker.models.wordllama import WordLlama

TEXTS = [
    "hello world",
    "The quick brown fox.\n\n日本語 </s> \t x",
    "def f(x): return x**2 " * 200,
    " ",
    "🏳️‍🌈",
]

PACKAGE = """
import json, sys
from pathlib import Path
import wordllama
from safetensors.numpy import load_file
from wordllama.config import Config
from wordllama.inference import WordLlamaInference
home = Path(wordllama.__file__).parent
config = Config._configurations["l2_supercat"]
tokenizer = wordllama.WordLlama.load_tokenizer(home / "tokenizers/l2_supercat_tokenizer_config.json", config)
table = load_file(home / "weights/l2_supercat_256.safetensors")["embedding.weight"]
model = WordLlamaInference(table, config, tokenizer)
json.dump(model.embed(json.load(sys.stdin), norm=True).tolist(), sys.stdout)
"""


@pytest.fixture(scope="module")
def model() -> WordLlama:
    return WordLlama()


def test_vectors_equal_those_of_the_package(model: WordLlama) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PACKAGE],
        input=json.dumps(TEXTS),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    np.testing.assert_allclose(list(model.embed_multi(TEXTS)), json.loads(done.stdout), atol=1e-6)


def test_a_vector_does_not_depend_on_its_batch(model: WordLlama) -> None:
    """Padding would move short texts towards the pad token."""
    assert list(model.embed_multi(TEXTS)) == [model.embed(text) for text in TEXTS]


def test_vectors_have_256_dimensions_and_length_one(model: WordLlama) -> None:
    vectors = np.array(list(model.embed_multi(TEXTS)))
    assert vectors.shape == (len(TEXTS), 256)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_text_without_tokens_raises_an_error_instead_of_nan(model: WordLlama) -> None:
    with pytest.raises(ValueError, match="without tokens"):
        list(model.embed_multi(["fine", ""]))


def test_the_table_is_mapped_from_its_file_so_it_takes_memory_only_where_it_is_read() -> None:
    _, table = model_files.load()
    assert table.shape == (32_000, 256)
    assert isinstance(table.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 0


def test_threads_share_one_load() -> None:
    model = WordLlama()
    with ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(model.embed, ["hello world"] * 8))
    assert all(vector == vectors[0] for vector in vectors)


def test_llm_lists_wordllama_and_loading_it_configures_no_logging() -> None:
    """Runs in its own process, since an import of the package would change the root logger."""
    code = (
        "import logging, sys, llm;"
        "model = llm.get_embedding_model('wordllama');"
        "assert len(model.embed('hello')) == 256;"
        "assert not logging.getLogger().handlers;"
        "assert 'wordllama' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wordllama_is_an_embedding_model_of_llm(model: WordLlama) -> None:
    assert isinstance(llm.get_embedding_model("wordllama"), type(model))
