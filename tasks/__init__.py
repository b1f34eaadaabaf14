"""The tasks: thin functions with explicit names, JSON in and JSON out.

    application ── tasks.index_documents ─▶ stage: clean ▸ split ▸ hash ▸ write        queue vector_index
      its transactions ──── the outbox ───▶   │ replaced by tasks.await_indexing or await_jobs
                                              ▼
                         drain: slot ▸ budget ▸ claim ▸ request ▸ save ▸ publish       queue vector_index.embed
                                              │
    application ── tasks.search, tasks.chat ▶ retrieve ▸ compose ▸ answer               queue vector_index.chat

Postgres holds the truth; a task only triggers work on it. So a lost, duplicate or late message is harmless.
"""
