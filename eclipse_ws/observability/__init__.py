"""What operators see: log lines and how many of them, and how long things take.

Everything above `config` may import from here; these may import `config`.
"""
