"""Names of idempotency keys: whose they are, and that every node, of whatever version, makes the same."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest

from eclipse_ws.delivery.keys import application_key, fingerprint, user_key, visitors_key


@pytest.mark.parametrize(
    ("make", "parts", "known"),
    [
        (user_key, ("c1", "u1", "k1"), "be485aebb1008368af918e2f6d875f84"),
        (visitors_key, ("c1", "k1"), "2b1864fa147ed335d052ecaf4faa11fa"),
        (application_key, ("c1", "k1"), "c9768867c5290f0cb3e60bae25e83dbd"),
        (fingerprint, ("hello", "USER"), "99858fa1a17e6e25812a9fd560b5e672"),
        (fingerprint, ("h\u00e9", b"\xff\x00"), "ba2afc043f6e2cece07d47e3948df1a0"),
        (fingerprint, (), "cae66941d9efbd404e4d88758ea67670"),
    ],
    ids=["user", "visitors", "application", "text", "bytes", "nothing"],
)
def test_names_stay_what_they_are(
    make: Callable[..., str], parts: tuple[str | bytes, ...], known: str
) -> None:
    """The next version knows what was sent through this one: the name of a key never changes."""
    assert make(*parts) == known


def test_names_are_unique() -> None:
    """Each kind, chat, user and key makes another name, wherever one part ends and the next begins."""
    names = [
        *(user_key(*parts) for parts in (("c", "u", "k"), ("cu", "", "k"), ("c", "uk", ""), ("", "c", "uk"))),
        *(
            user_key(*parts)
            for parts in (("d", "u", "k"), ("c", "v", "k"), ("c", "u", "l"), ("1:c", "u", "k"))
        ),
        *(make(*parts) for make in (visitors_key, application_key) for parts in (("c", "k"), ("d", "k"))),
        *(make(*parts) for make in (visitors_key, application_key) for parts in (("ck", ""), ("c", "l"))),
        *(fingerprint(*parts) for parts in ((), ("",), ("", ""), ("a",), ("a", "b"), ("ab",), ("b", "a"))),
    ]
    assert all(one != other for one, other in combinations(names, 2))
    assert {len(name) for name in names} == {32}
    assert fingerprint("é") == fingerprint("é".encode())
