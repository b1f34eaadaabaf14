"""Sources: what `reindex` reads documents from. For your own, see `Source` in worker/protocols.py."""
