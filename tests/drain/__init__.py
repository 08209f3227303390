"""Stopping nodes: what their sessions, senders and neighbours notice."""
