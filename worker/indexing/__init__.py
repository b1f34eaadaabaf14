"""Indexing: stage documents, wait for their vectors, publish whole revisions."""
