"""One process: wiring, the bounded HTTP listener, HTTP handlers, metrics, draining and sweeping.

`commands` and `cli` may import from here; these may import `sessions` and everything below.
"""
