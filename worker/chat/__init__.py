"""Chat: passages become a prompt, the prompt an answer with citations."""
