"""The verdict on a state outlives the process, whatever the disk does meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftos.trust import FILE_NAME, Trust


def test_a_state_is_trusted_until_it_is_not_and_then_for_good(tmp_path: Path) -> None:
    """The first reason is kept, with what to do about it."""
    trust = Trust(tmp_path)
    assert trust.lost is None
    trust.lose("it differs at entry 64")
    trust.lose("something else")
    for found in (trust, Trust(tmp_path)):
        assert found.lost is not None
        assert "it differs at entry 64" in found.lost
        assert "raftos dev rejoin" in found.lost


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b'{"reason": 5}'])
def test_a_verdict_that_cannot_be_read_is_one_all_the_same(tmp_path: Path, content: bytes) -> None:
    """That the file is there says enough."""
    (tmp_path / FILE_NAME).write_bytes(content)
    assert "damaged" in (Trust(tmp_path).lost or "")


def test_a_half_written_verdict_is_none(tmp_path: Path) -> None:
    """The name appears after the sync: the process stopped before, and the next look finds it out anew."""
    (tmp_path / "corrupt.json.new").write_bytes(b'{"rea')
    trust = Trust(tmp_path)
    assert trust.lost is None
    trust.lose("it differs")
    assert "it differs" in (Trust(tmp_path).lost or "")


def test_a_verdict_that_the_disk_does_not_take_is_written_later(tmp_path: Path) -> None:
    """Until then it holds in this process."""
    folder = tmp_path / "data"
    trust = Trust(folder)
    trust.lose("it differs")
    assert trust.lost is not None
    trust.keep()
    assert Trust(folder).lost is None
    folder.mkdir()
    trust.keep()
    assert "it differs" in (Trust(folder).lost or "")


def test_without_a_directory_nothing_is_kept() -> None:
    """As in tests of what is above."""
    trust = Trust()
    trust.lose("it differs")
    trust.keep()
    assert trust.lost is not None
