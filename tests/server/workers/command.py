"""``eclipse-ws`` as it is, but for constants: ``python -m tests.server.workers.command JSON ARGUMENTS...``.

The JSON is an object of constants' paths in `eclipse_ws.server.workers`, and their values.
"""

from __future__ import annotations

import importlib
import json
import sys

from coverage import process_startup

from eclipse_ws.cli import main

if __name__ == "__main__":
    process_startup()
    for path, value in json.loads(sys.argv.pop(1)).items():
        module, _, name = path.rpartition(".")
        setattr(importlib.import_module(f"eclipse_ws.server.workers.{module}"), name, value)
    main()
