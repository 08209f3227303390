"""Senders: who waits after a flood, and what sessions share; all on a clock set by the tests."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from eclipse_ws.security.senders import PATIENCE, Penalties, Sender, Shares
from tests.conftest import make_settings


def visitor(chat: str, address: str = "93.184.216.34") -> Sender:
    """A visitor of a chat."""
    return Sender(chat, address, is_account=False)


def account(chat: str, user: str = "u1") -> Sender:
    """An account in a chat."""
    return Sender(chat, user, is_account=True)


def refused(shares: Shares, sender: Sender, content: str, now: float) -> tuple[str, float]:
    """The limit that refuses the sender's message, and for how many seconds."""
    found = shares.message(sender, content, now)
    assert found is not None
    return found[0], round(found[1], 2)


# -- shares -------------------------------------------------------------------------------------


@patch("eclipse_ws.security.limits.BURST_SECONDS", 0.3)
def test_a_burst_of_messages_and_then_the_rate() -> None:
    """A sender may send a burst, then at the rate; other senders have their own budgets."""
    shares = Shares(make_settings(message_rate=10))
    mine = visitor("c1")
    assert [shares.message(mine, "x", 100.0) for _ in range(3)] == [None] * 3
    assert refused(shares, mine, "x", 100.0) == ("message_rate", 0.1)
    assert refused(shares, mine, "x", 100.05) == ("message_rate", 0.05)
    for other in (visitor("c2"), visitor("c1", "8.8.8.8"), account("c1"), account("c1", mine.name)):
        assert shares.message(other, "x", 100.0) is None
    assert shares.message(mine, "x", 100.11) is None
    assert shares.message(mine, "x", 100.11) is not None
    assert [shares.message(mine, "x", 200.0) for _ in range(3)] == [None] * 3


@patch("eclipse_ws.security.senders.BYTES_AT_ONCE", 4000)
@patch("eclipse_ws.security.senders.MESSAGE_BYTES", 100)
def test_bytes_of_content() -> None:
    """A sender may send a burst of bytes of UTF-8, then at the rate."""
    shares = Shares(make_settings(message_rate=10, max_content=1))
    mine = account("c1")
    assert shares.message(mine, "x" * 2000, 100.0) is None
    assert shares.message(mine, "é" * 1000, 100.0) is None
    assert refused(shares, mine, "x" * 500, 100.0) == ("message_bytes", 0.5)
    assert shares.message(mine, "x" * 500, 100.6) is None
    assert shares.message(mine, "x" * 500, 100.6) is not None


def test_the_defaults_of_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quiet sender's longest message passes, however small the burst, and so do twenty short ones."""
    settings = make_settings()
    shares, longest = Shares(settings), "\U0001f600" * settings.max_content
    assert shares.message(account("c1"), longest, 100.0) is None
    assert shares.message(account("c1"), "short", 100.0) is None
    assert shares.message(account("c1"), longest, 100.0) is not None
    assert shares.message(account("c1"), longest, 120.0) is None
    assert [shares.message(account("c2"), "short", 100.0) for _ in range(20)] == [None] * 20
    monkeypatch.setattr("eclipse_ws.security.senders.BYTES_AT_ONCE", 1024)
    monkeypatch.setattr("eclipse_ws.security.senders.MESSAGE_BYTES", 100)
    small = Shares(make_settings(max_content=1))
    assert small.message(account("c1"), longest, 100.0) is None
    assert refused(small, account("c1"), longest, 100.0) == ("message_bytes", 400.0)
    assert small.message(account("c1"), longest, 500.0) is None


def test_rates_of_zero_share_nothing() -> None:
    """A rate of 0 lets everything pass and remembers no sender; a reload applies to known senders."""
    shares = Shares(make_settings(message_rate=0))
    assert not any(shares.message(visitor("c1"), "x" * 9000, 100.0) for _ in range(1000))
    assert len(shares) == 0
    shares.configure(make_settings(message_rate=0.5))
    assert shares.message(visitor("c1"), "x", 100.0) is None
    assert shares.message(visitor("c1"), "x", 100.0) is not None
    shares.configure(make_settings(message_rate=0))
    assert shares.message(visitor("c1"), "x", 100.0) is None


@patch("eclipse_ws.security.senders.BYTES_AT_ONCE", 1024)
@patch("eclipse_ws.security.senders.MESSAGE_BYTES", 1000)
def test_refused_messages_cost_nothing() -> None:
    """A message that is refused for its bytes takes no message from the sender's budget."""
    shares = Shares(make_settings(message_rate=1, max_content=1))
    assert shares.message(visitor("c1"), "x" * 1000, 100.0) is None
    assert shares.message(visitor("c1"), "x" * 1000, 100.0) is not None
    assert shares.message(visitor("c1"), "x", 100.0) is None


@patch("eclipse_ws.security.limits.MAX_ADDRESSES", 100)
def test_shares_are_bounded() -> None:
    """Of a million senders the latest are remembered, and quiet ones are dropped."""
    shares = Shares(make_settings())
    for number in range(1000):
        shares.message(visitor(f"c{number}"), "x", 100.0)
    assert len(shares) == 100
    shares.sweep(100.05)
    assert len(shares) == 100
    shares.sweep(101.0)
    assert len(shares) == 0


# -- penalties ----------------------------------------------------------------------------------


def test_an_account_waits_everywhere() -> None:
    """An account that flooded waits in every chat, for the penalty's time; other accounts don't."""
    penalties = Penalties()
    assert not penalties.waits(account("c1"), 100.0)
    penalties.punish(account("c1"), 100.0)
    assert penalties.waits(account("c2"), 129.0)
    assert not penalties.waits(account("c1"), 131.0)
    assert not penalties.waits(account("c1", "u2"), 101.0)


def test_a_visitor_waits_by_address_and_chat() -> None:
    """A visitor waits in that chat at that address; others there, and that chat's account, don't."""
    penalties = Penalties()
    penalties.punish(visitor("c1"), 100.0)
    assert penalties.waits(visitor("c1"), 129.0)
    assert not penalties.waits(visitor("c1"), 131.0)
    assert not penalties.waits(visitor("c2"), 101.0)
    assert not penalties.waits(visitor("c1", "8.8.8.8"), 101.0)
    assert not penalties.waits(account("c1", "93.184.216.34"), 101.0)


def test_visitors_of_an_unknown_address() -> None:
    """If addresses can't be distinguished, all visitors of a flooded chat wait; other chats' don't."""
    penalties = Penalties()
    for number in range(5 * PATIENCE):
        penalties.punish(visitor(f"c{number}", ""), 100.0)
    assert penalties.waits(visitor("c1", ""), 101.0)
    assert not penalties.waits(visitor("other", ""), 101.0)
    assert not penalties.waits(account("c1"), 101.0)


def test_an_address_that_floods_many_chats() -> None:
    """An address that floods chat after chat waits with all its visitors; one chat, however often, is one."""
    penalties = Penalties()
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


def test_occasional_floods() -> None:
    """Floods that are spread over many penalties' times don't shut the address out."""
    penalties = Penalties()
    for number in range(100):
        penalties.punish(visitor(f"c{number}"), 100.0 + 3.1 * number)
        assert not penalties.waits(visitor("other"), 100.0 + 3.1 * number)


@patch("eclipse_ws.security.limits.MAX_ADDRESSES", 100)
def test_penalties_are_bounded() -> None:
    """Of a million flooders the latest are remembered, and all are forgotten in time."""
    penalties = Penalties()
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
