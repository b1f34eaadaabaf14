"""Keyspace: the name of every queue, and of every key that workers write to Redis."""

STAGING, EMBED, CHAT = "vector_index", "vector_index.embed", "vector_index.chat"
QUEUES = (STAGING, EMBED, CHAT)

# Messages that a worker holds and has not acknowledged. Celery's own names would let our workers redeliver the
# messages of an application's workers on the same broker.
UNACKED = "vector_index:unacked"
UNACKED_INDEX = "vector_index:unacked_index"
NOTHING = "vector_index:nothing"  # a key that never holds a value

BUDGET = "vector-index:budget:"  # followed by the kind and the name of the backend
STREAM = "vector-index:chat:"  # followed by the id of the chat task
