"""Amounts as people write and read them."""

from __future__ import annotations

import pytest

from raftos_cli.quota import amount_text
from tests.unit.cli.conftest import Raftos


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "0"),
        (1023, "1023"),
        (1024, "1.0 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (8 * 2**30, "8.0 GiB"),
        (3 * 2**50, "3072.0 TiB"),
    ],
)
def test_bytes_are_shown_with_their_unit(amount: int, shown: str) -> None:
    """And everything else as the number it is."""
    assert amount_text("state.bytes", amount) == shown
    assert amount_text("kv.keys", amount) == str(amount)


@pytest.mark.parametrize("amount", ["", "much", "1.5GiB", "8GB", "8Gi", "²", "1e6", "9999999999TiB", "MiB"])
def test_what_is_no_amount_is_bad_usage(raftos: Raftos, dead_context: str, amount: str) -> None:
    """Said before any member is asked, with the units there are."""
    refused = raftos("quota", "set", "state.bytes", amount)
    assert refused.exit_code == 2
    assert "GiB" in refused.stderr


@pytest.mark.parametrize("amount", ["1048576", "512MiB", "512mib", "8 GiB", "1048576B"])
def test_an_amount_is_a_number_or_a_size(raftos: Raftos, dead_context: str, amount: str) -> None:
    """What can be read goes to the cluster, which is not there."""
    assert raftos("quota", "set", "state.bytes", amount, "--timeout", "0.2").exit_code == 5


@pytest.mark.parametrize("amount", ["5MiB", "5 kib", "5B"])
def test_what_is_counted_one_by_one_has_no_unit(raftos: Raftos, dead_context: str, amount: str) -> None:
    """5 MiB of keys would be five million, which nobody means."""
    refused = raftos("quota", "set", "kv.keys", amount)
    assert refused.exit_code == 2
    assert "kv.keys is no size" in refused.stderr
    assert raftos("quota", "set", "kv.keys", "0", "--timeout", "0.2").exit_code == 5
