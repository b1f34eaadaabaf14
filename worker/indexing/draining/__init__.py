"""Drain: claim queued chunks, send them to the provider, save the vectors, publish complete documents."""
