"""vector-index-worker: documents in, vectors in Postgres, passages and answers out."""
