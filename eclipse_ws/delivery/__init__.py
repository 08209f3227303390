"""Once, in order, resumable, over any backend: so far idempotency; gaps, replays, outages are the backends'.

`sessions` and above may import from here; these may import `backends` and everything below.
"""
