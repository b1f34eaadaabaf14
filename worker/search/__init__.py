"""Search: embed a question, rank the matching chunks and return them as passages."""
