"""Keyspace: the names of the queues, and of the keys that workers write to Redis."""

STAGING, EMBED, CHAT = "vector_index", "vector_index.embed", "vector_index.chat"
QUEUES = (STAGING, EMBED, CHAT)

CONTROL = "vector_index"  # exchange of remote control: the commands of an application are for its own workers

# Unacknowledged messages. With Celery's default names, our workers would redeliver the messages of an application's
# workers on the same broker.
UNACKED = "vector_index:unacked"
UNACKED_INDEX = "vector_index:unacked_index"
NOTHING = "vector_index:nothing"  # a key that never has a value

BUDGET = "vector-index:budget:"  # followed by a digest of the model and its key
STREAM = "vector-index:chat:"  # followed by the id of the chat task
