"""Indexing, searching and answering, compared with rivals: `python -m benchmarks.rivals --help`."""
