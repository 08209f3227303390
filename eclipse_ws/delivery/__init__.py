"""Once, in order, resumable, over any backend: order, replays, outbox, idempotency, handover.

`sessions` and above may import from here; these may import `backends` and everything below.
"""
