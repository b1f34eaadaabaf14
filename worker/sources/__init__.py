"""Sources: where reindexing reads documents from. Write your own: `Source` in worker/protocols.py."""
