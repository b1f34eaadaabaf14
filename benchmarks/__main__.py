"""`make bench`: each benchmark that needs nothing but this machine, in a few minutes.

Each compares ways to do one thing, in one run. Those that take arguments run on their own: `chunk_sizes`, `answers`,
`chat_under_load`, `monitoring`; `locality` and `token_counts` take a number, and make more edits and strings then.
"""

from benchmarks import chunking, embedding_requests, locality, packing, pipeline, token_counts


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


if __name__ == "__main__":
    main()
