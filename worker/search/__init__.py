"""Search: a question becomes a vector and words, their matches become ranked passages."""
