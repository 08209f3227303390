"""The contract suite for backends. It needs only pytest; subclass `BackendContract` to run it on a backend.

Nothing in the package imports from here; these import `backends`, `config` and `protocol`.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"eclipse_ws.testing.{name}"
        for name in ("deletions", "events", "harness", "history", "keys", "ledger", "marks", "nodes")
    )
)

from eclipse_ws.testing.backend_contract import BackendContract  # noqa: E402 - rewritten from now on

__all__ = ["BackendContract"]
