"""Whom to trust, and how far: JWT, origins, host names, limits, client addresses, internal authentication.

`backends` and above may import from here; these may import `observability`, `config` and `protocol`.
"""
