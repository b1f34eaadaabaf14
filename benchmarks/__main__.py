"""`make bench`: every benchmark, each a ratio of two ways to do one thing, measured in one run."""

from benchmarks import chunking, pipeline


def main() -> None:
    chunking.main()
    pipeline.main()


if __name__ == "__main__":
    main()
