"""What the queue may run: thin, JSON in and out, explicit names.

    application ── tasks.index_documents ─▶ stage: clean ▸ split ▸ hash ▸ write        queue vector_index
      its transactions ──── the outbox ───▶   │ replaced by tasks.embed, which waits
                                              ▼
                         drain: slot ▸ budget ▸ claim ▸ request ▸ save ▸ publish       queue vector_index.embed
                                              │
    application ── tasks.search, tasks.chat ▶ retrieve ▸ compose ▸ answer               queue vector_index.chat

Postgres holds the truth; a task is a nudge to go and look. That is why a lost message, a duplicate and a late
one are harmless.
"""
