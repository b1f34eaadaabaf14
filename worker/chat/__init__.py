"""Chat: retrieve passages, compose a prompt, and return or stream an answer with citations."""
