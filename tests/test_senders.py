"""Senders: who waits after a flood, and what sessions share; all on a clock that the tests hold."""

from __future__ import annotations

from eclipse_ws.senders import PATIENCE, Penalties, Sender
from tests.conftest import make_settings


def visitor(chat: str, address: str = "93.184.216.34") -> Sender:
    """A visitor of a chat."""
    return Sender(chat, address, is_account=False)


def account(chat: str, user: str = "u1") -> Sender:
    """An account in a chat."""
    return Sender(chat, user, is_account=True)


# -- penalties ----------------------------------------------------------------------------------


def test_an_account_waits_everywhere() -> None:
    """An account that flooded waits in every chat, for the penalty's time; other accounts don't."""
    penalties = Penalties(make_settings(rate_penalty=30))
    penalties.punish(account("c1"), 100.0)
    assert penalties.waits(account("c2"), 129.0)
    assert not penalties.waits(account("c1"), 131.0)
    assert not penalties.waits(account("c1", "u2"), 101.0)


def test_a_visitor_waits_by_address_and_chat() -> None:
    """A visitor waits in that chat at that address; others there, and that chat's account, don't."""
    penalties = Penalties(make_settings(rate_penalty=30))
    penalties.punish(visitor("c1"), 100.0)
    assert penalties.waits(visitor("c1"), 129.0)
    assert not penalties.waits(visitor("c1"), 131.0)
    assert not penalties.waits(visitor("c2"), 101.0)
    assert not penalties.waits(visitor("c1", "8.8.8.8"), 101.0)
    assert not penalties.waits(account("c1", "93.184.216.34"), 101.0)


def test_visitors_of_an_unknown_address() -> None:
    """Where addresses can't be told apart a chat's visitors wait, but no other's, however many flood."""
    penalties = Penalties(make_settings(rate_penalty=30))
    for number in range(5 * PATIENCE):
        penalties.punish(visitor(f"c{number}", ""), 100.0)
    assert penalties.waits(visitor("c1", ""), 101.0)
    assert not penalties.waits(visitor("other", ""), 101.0)
    assert not penalties.waits(account("c1"), 101.0)


def test_an_address_that_floods_again_and_again() -> None:
    """An address that floods chat after chat waits with all its visitors; one chat, however often, is one."""
    penalties = Penalties(make_settings(rate_penalty=30))
    for _ in range(5 * PATIENCE):
        penalties.punish(visitor("c1"), 100.0)
    for number in range(PATIENCE - 1):
        assert not penalties.waits(visitor("other"), 101.0)
        penalties.punish(visitor(f"c{number}"), 101.0)
    penalties.punish(visitor("last"), 101.0)
    assert penalties.waits(visitor("other"), 130.0)
    assert not penalties.waits(visitor("other"), 132.0)
    assert not penalties.waits(visitor("other", "8.8.8.8"), 102.0)
    assert not penalties.waits(account("other", "93.184.216.34"), 102.0)


def test_a_flooder_now_and_then() -> None:
    """Floods that are spread over many penalties' times don't shut the address out."""
    penalties = Penalties(make_settings(rate_penalty=30))
    for number in range(100):
        penalties.punish(visitor(f"c{number}"), 100.0 + 3.1 * number)
        assert not penalties.waits(visitor("other"), 100.0 + 3.1 * number)


def test_no_penalty() -> None:
    """With a penalty of 0 nobody waits."""
    penalties = Penalties(make_settings(rate_penalty=0))
    for number in range(3 * PATIENCE):
        penalties.punish(visitor(f"c{number}"), 100.0)
    assert not penalties.waits(visitor("c1"), 100.0)


def test_penalties_are_bounded() -> None:
    """Of a million flooders the latest are remembered, and all are forgotten in time."""
    penalties = Penalties(make_settings(rate_penalty=30, max_addresses=100))
    for number in range(1000):
        penalties.punish(visitor("c1", f"10.{number}"), 100.0)
        penalties.punish(account("c1", f"u{number}"), 100.0)
    assert len(penalties) == 200
    assert penalties.waits(account("c1", "u999"), 101.0)
    assert not penalties.waits(account("c1", "u1"), 101.0)
    penalties.sweep(129.0)
    assert penalties.waits(account("c1", "u999"), 129.0)
    penalties.sweep(131.0)
    assert len(penalties) == 0
