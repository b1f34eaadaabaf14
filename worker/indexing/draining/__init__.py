"""Drain: claim queued chunks, send them to the provider, save their vectors, publish complete documents."""
