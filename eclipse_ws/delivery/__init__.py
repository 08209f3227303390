"""Once, in order, resumable, over any backend.

`sessions` and above may import from here; these may import `backends` and everything below.
"""
