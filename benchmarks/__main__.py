"""`make bench`: each benchmark that needs nothing but this machine, in a few minutes.

Each compares ways to do one thing, in one run. Those that take arguments run on their own: `chunk_sizes`, `answers`,
`follow_up`, `groundedness`, `chat_under_load`, `monitoring`. `locality`, `token_counts`, `reindexing` and `hnsw` take a
number, and make more edits, strings, rows and vectors then.

`make bench` then runs `benchmarks.rivals` once: indexing beside pgai and a script.
"""

from benchmarks import (
    chunking,
    embedding_requests,
    hnsw,
    locality,
    packing,
    pipeline,
    reindexing,
    token_counts,
)


def main() -> None:
    chunking.main()
    print()
    locality.main(edits=40)
    print()
    packing.main()
    print()
    token_counts.main(number=20_000)
    print()
    embedding_requests.main()
    pipeline.main()
    print()
    reindexing.main(rows=5_000)
    print()
    hnsw.main(chunks=2_000, vectors=5_000)


if __name__ == "__main__":
    main()
