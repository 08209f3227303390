"""A worker as it is, which counts its lines if the tests' are counted."""

from __future__ import annotations

from coverage import process_startup

if __name__ == "__main__":
    process_startup()
    from eclipse_ws.server.workers.worker import main

    main()
