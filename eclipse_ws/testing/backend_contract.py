"""What `eclipse_ws.backends.base.Backend` promises, as tests that any backend has to pass."""

from __future__ import annotations

from eclipse_ws.testing.deletions import DeletionsContract
from eclipse_ws.testing.events import EventsContract
from eclipse_ws.testing.history import HistoryContract
from eclipse_ws.testing.keys import KeysContract
from eclipse_ws.testing.ledger import LedgerContract
from eclipse_ws.testing.marks import MarksContract
from eclipse_ws.testing.nodes import NodesContract


class BackendContract(
    EventsContract,
    HistoryContract,
    DeletionsContract,
    KeysContract,
    MarksContract,
    LedgerContract,
    NodesContract,
):
    """All of the contract. To test a backend, write a subclass with one method::

        class TestMyBackend(BackendContract):
            def make_backend(self, settings: Settings) -> Backend:
                return MyBackend(settings.model_copy(update={"my_url": url}))

    `make_backend` makes one more node, which the suite starts and closes. If `Backend.is_shared` is true, all
    nodes that it makes must share one server. If it is false, each test has one node, and the promises
    between nodes are skipped. So are those of a ledger, if `Backend.ledger` is None.
    """
