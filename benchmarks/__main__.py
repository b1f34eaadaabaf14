"""`make bench`: every benchmark, each a ratio of two ways to do one thing, measured in one run."""

from benchmarks import chunking, embedding_requests, pipeline


def main() -> None:
    chunking.main()
    embedding_requests.main()
    pipeline.main()


if __name__ == "__main__":
    main()
