"""A worker that gives no sign of life."""

from __future__ import annotations

import time

if __name__ == "__main__":
    time.sleep(60)
