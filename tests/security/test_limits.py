"""Limits: buckets, and what each address may have; all on a clock set by the tests."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from eclipse_ws.security.client_address import Source
from eclipse_ws.security.limits import COMMAND_LENGTH, Addresses, Budget, Limits, Rate
from tests.conftest import make_settings

PUBLIC = Source("93.184.216.34", shared=False)
PRIVATE = Source("10.0.0.1", shared=True)


def budget(**given: object) -> Budget:
    """A fresh session's budget; rates that are not given are off."""
    rates = {"command_rate": 0}
    return Budget(Limits(make_settings(**{**rates, **given})))


@patch("eclipse_ws.security.limits.BURST_SECONDS", 0.3)
def test_a_burst_passes_and_then_the_rate() -> None:
    """A bucket lets its burst pass at once, then says how long to wait, and refills steadily."""
    take = budget(command_rate=10).command
    assert [take(100.0) for _ in range(3)] == [0, 0, 0]
    assert take(100.0) == pytest.approx(0.1)
    assert take(100.05) == pytest.approx(0.05)
    assert take(100.11) == 0
    assert take(100.11) > 0
    assert [take(200.0) for _ in range(3)] == [0, 0, 0]
    assert take(200.0) > 0


@patch("eclipse_ws.security.limits.BURST_SECONDS", 1.5)
def test_a_burst_is_exact() -> None:
    """All of a burst passes at once, also without lucky rounding; then half a second's wait, exactly."""
    take = budget(command_rate=2).command
    assert [take(100.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert [take(100.5) for _ in range(2)] == [0, 0.5]


def test_a_rate_of_zero_limits_nothing() -> None:
    """A rate of 0 lets everything pass, and no rate at all means that sessions are not even asked."""
    take = budget().command
    assert not any(take(5.0) for _ in range(10_000))
    none = dict.fromkeys(("command_rate", "message_rate"), 0)
    assert not Limits(make_settings(**none)).rated
    for name in none:
        assert Limits(make_settings(**{**none, name: 1})).rated


def test_long_commands_count_as_several() -> None:
    """A session's commands are also limited in length; one long command after a pause passes."""
    mine = budget(command_rate=10)
    assert mine.command(1.0, 20 * COMMAND_LENGTH) == 0
    assert mine.command(1.0) == pytest.approx(0.2)
    assert [mine.command(10.0, COMMAND_LENGTH) for _ in range(10)] == [0] * 10
    assert mine.command(10.0, COMMAND_LENGTH) > 0


@patch("eclipse_ws.security.limits.RATE_PATIENCE", 3)
def test_refusals_are_tolerated_up_to_a_burst() -> None:
    """A burst of refusals is forgiven, then one a second."""
    mine = budget()
    assert [mine.forgives(10.0) for _ in range(4)] == [True, True, True, False]
    assert mine.forgives(11.01)
    assert not mine.forgives(11.02)


def test_new_rates_apply_to_open_sessions() -> None:
    """A budget asks its node's limits each time, so a reload reaches it."""
    limits = Limits(make_settings(command_rate=0.5))
    mine = Budget(limits)
    assert mine.command(1.0) == 0
    assert mine.command(1.0) > 0
    limits.configure(make_settings(command_rate=0))
    assert mine.command(1.0) == 0


def test_refusals_are_counted() -> None:
    """Every refusal counts once, under the name of its limit."""
    limits = Limits(make_settings())
    for name in ("token", "token", "forbidden"):
        limits.refuse(name)
    assert {name: count for name, count in limits.refused.items() if count} == {"token": 2, "forbidden": 1}


def test_a_rate_of_one_at_once() -> None:
    """A burst of one leaves no tolerance."""
    assert Rate.of(2, 1) == (0.5, 0)


# -- how many -----------------------------------------------------------------------------------


def test_sessions_of_one_address() -> None:
    """Sessions of an address are limited; one that ends makes room, and other addresses are not affected."""
    addresses = Addresses(make_settings(max_sessions_per_address=2))
    for _ in range(2):
        assert addresses.upgrade(PUBLIC, 1.0) is None
    assert addresses.upgrade(PUBLIC, 1.0) == "max_sessions_per_address"
    assert addresses.upgrade(Source("8.8.8.8", shared=False), 1.0) is None
    addresses.leave(PUBLIC.address)
    assert addresses.sessions(PUBLIC.address) == 1
    assert addresses.upgrade(PUBLIC, 1.0) is None
    for _ in range(3):
        addresses.leave(PUBLIC.address)  # one too many changes nothing
    assert addresses.sessions(PUBLIC.address) == 0


@patch("eclipse_ws.security.limits.UPGRADES", 0.03)
def test_upgrades_per_minute() -> None:
    """Upgrades of an address are limited to a burst, then to the rate a minute."""
    addresses = Addresses(make_settings(max_sessions_per_address=100))
    assert [addresses.upgrade(PUBLIC, 5.0) for _ in range(4)] == [None, None, None, "upgrades_per_minute"]
    assert addresses.upgrade(PUBLIC, 26.0) is None
    assert addresses.upgrade(PUBLIC, 26.0) == "upgrades_per_minute"
    assert addresses.sessions(PUBLIC.address) == 4  # what is refused is not counted


def test_private_addresses_are_not_limited_by_default() -> None:
    """Unset, the limits apply to public addresses only: a private one may stand for many clients."""
    addresses = Addresses(make_settings())
    assert {addresses.upgrade(PRIVATE, 1.0) for _ in range(5000)} == {None}
    assert {addresses.upgrade(PUBLIC, 1.0) for _ in range(200)} == {None}
    assert addresses.upgrade(PUBLIC, 1.0) == "max_sessions_per_address"
    other = Source("8.8.8.8", shared=False)
    found = []
    for _ in range(601):
        found.append(addresses.upgrade(other, 1.0))
        addresses.leave(other.address)
    assert set(found[:599]) == {None}
    assert found[-1] == "upgrades_per_minute"
    addresses.configure(make_settings(max_sessions_per_address=1))
    assert addresses.upgrade(PRIVATE, 1.0) == "max_sessions_per_address"


@patch("eclipse_ws.security.limits.GUESSES_PER_MINUTE", 2)
def test_guesses() -> None:
    """Wrong secrets use up an address's guesses; checking for any left does not."""
    addresses = Addresses(make_settings())
    for _ in range(2):
        assert addresses.may_guess(PUBLIC, 1.0)
        assert addresses.may_guess(PUBLIC, 1.0)
        addresses.guessed(PUBLIC, 1.0)
    assert not addresses.may_guess(PUBLIC, 1.0)
    assert addresses.may_guess(Source("8.8.8.8", shared=False), 1.0)
    assert addresses.may_guess(PUBLIC, 32.0)


@patch("eclipse_ws.security.limits.MAX_ADDRESSES", 100)
def test_remembered_addresses_are_bounded() -> None:
    """A million addresses leave the bound's number of entries, and a sweep forgets those that are quiet."""
    addresses = Addresses(make_settings())
    for number in range(10_000):
        source = Source(f"2606:{number:x}::/64", shared=False)
        addresses.upgrade(source, 1.0)
        addresses.leave(source.address)
        addresses.guessed(source, 1.0)
    assert len(addresses) == 200
    addresses.sweep(2.0)
    assert len(addresses) == 100  # an upgrade is forgotten after a tenth of a second, a guess after six
    addresses.sweep(100.0)
    assert len(addresses) == 0


@patch("eclipse_ws.security.limits.MAX_ADDRESSES", 2)
@patch("eclipse_ws.security.limits.GUESSES_PER_MINUTE", 1)
@patch("eclipse_ws.security.limits.UPGRADES", 0.01)
def test_the_latest_addresses_are_remembered() -> None:
    """Beyond its bound a node forgets the oldest addresses: a new one is limited like any other."""
    addresses = Addresses(make_settings(max_sessions_per_address=100))
    first, second, third = (Source(f"8.8.8.{number}", shared=False) for number in (1, 2, 3))
    for source in (first, second):
        addresses.guessed(source, 1.0)
        assert addresses.upgrade(source, 1.0) is None
    addresses.guessed(first, 1.5)  # which makes it one of the latest
    assert addresses.upgrade(first, 1.5) == "upgrades_per_minute"
    addresses.guessed(third, 2.0)
    assert addresses.upgrade(third, 2.0) is None
    assert not addresses.may_guess(third, 2.0)
    assert addresses.upgrade(third, 2.0) == "upgrades_per_minute"
    assert addresses.upgrade(second, 2.0) == "upgrades_per_minute"
    assert [addresses.may_guess(each, 2.0) for each in (first, second)] == [True, False]
    assert addresses.upgrade(first, 2.0) is None


@patch("eclipse_ws.security.limits.MAX_ADDRESSES", 10)
def test_requests_of_many_addresses_are_limited() -> None:
    """An address with too many requests is refused, however many other addresses came before."""
    addresses = Addresses(make_settings())
    for number in range(50):
        assert addresses.allow_request(f"8.8.8.{number}", 1.0)
    answers = [addresses.allow_request("9.9.9.9", 1.0) for _ in range(401)]
    assert (answers[:399], answers[400]) == ([True] * 399, False)
    assert addresses.allow_request("8.8.8.49", 1.0)
