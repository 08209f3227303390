"""Authentication and limits: JWT, origins, host names, rate limits, client addresses, internal secrets.

`backends` and above may import from here; these may import `observability`, `config` and `protocol`.
"""
