"""What a daemon refuses before it has written anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raftos.errors import StartupError
from raftos.node.directory import DataDirectory, read_secret
from tests.unit.api.harness import members_config

SECRET = "00" * 32


def test_a_new_directory_is_claimed_and_known_again(tmp_path: Path) -> None:
    """The identity is written once and read at every later start."""
    config = members_config(tmp_path / "data", ["n1"], "n1")
    for _ in range(2):
        with DataDirectory(config) as directory:
            directory.claim()
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0


def test_a_power_cut_does_not_take_the_whole_directory_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of the folders on the way to it are as durable as what will be in it."""
    synced = set()
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    folder = tmp_path / "members" / "n1" / "data"
    for _ in range(2):
        DataDirectory(members_config(folder, ["n1"], "n1")).close()
        assert folder.parent.stat().st_ino in synced
    assert {each.stat().st_ino for each in (tmp_path, tmp_path / "members", folder.parent)} <= synced


def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    """And may start once the first has ended."""
    config = members_config(tmp_path, ["n1"], "n1")
    with DataDirectory(config), pytest.raises(StartupError, match="another daemon"):
        DataDirectory(config)
    DataDirectory(config).close()


@pytest.mark.parametrize(
    ("identity", "sentence"),
    [
        ('{"cluster_id":"c","member_id":"id-n2","format":1}', "belongs to member id-n2"),
        ('{"cluster_id":"x","member_id":"id-n1","format":1}', "of cluster x"),
        ('{"cluster_id":"c","member_id":"id-n1","format":2}', "newer"),
        ('{"cluster_id":', "cannot read"),
        ("{}", "cannot read"),
    ],
)
def test_a_directory_that_is_not_ours_is_refused_and_left_alone(
    tmp_path: Path, identity: str, sentence: str
) -> None:
    """Another member's, another cluster's, a newer format's, or a damaged one."""
    (tmp_path / "identity.json").write_text(identity)
    with pytest.raises(StartupError, match=sentence):
        DataDirectory(members_config(tmp_path, ["n1"], "n1"))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("identity.json", identity)]


@pytest.mark.parametrize("identity", [b"\0" * 64, b'{"cluster_id":"\xff","member_id":"id-n1"}', b""])
def test_a_damaged_identity_is_named_with_what_to_do(tmp_path: Path, identity: bytes) -> None:
    """Whatever it holds: zeros after a power cut, text that is none, nothing."""
    file = tmp_path / "identity.json"
    file.write_bytes(identity)
    with pytest.raises(StartupError) as caught:
        DataDirectory(members_config(tmp_path, ["n1"], "n1"))
    assert caught.value.message.startswith(f"cannot read {file}: ")
    assert "restore that file, or let this member rejoin" in caught.value.message
    assert file.read_bytes() == identity


def test_data_without_an_identity_is_refused(tmp_path: Path) -> None:
    """Somebody lost a file; guessing whose data this is would risk it."""
    (tmp_path / "journal").mkdir()
    with pytest.raises(StartupError, match="no identity"):
        DataDirectory(members_config(tmp_path, ["n1"], "n1"))


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    """A file is in the way, as an unwritable disk would be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="cannot use the data directory"):
        DataDirectory(members_config(tmp_path / "file" / "data", ["n1"], "n1"))


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        (SECRET, 0o644, "chmod 600"),
        (SECRET, 0o640, "chmod 600"),
        (SECRET[:-2], 0o600, "32 bytes"),
        ("not hex", 0o600, "32 bytes"),
        ("ü" * 64, 0o600, "cannot read"),
        ("", 0o600, "32 bytes"),
    ],
)
def test_a_secret_that_is_not_secret_or_no_secret_is_refused(
    tmp_path: Path, text: str, mode: int, sentence: str
) -> None:
    """And the sentence never shows it."""
    file = tmp_path / "secret"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(StartupError, match=sentence) as caught:
        read_secret(file)
    assert not text or text not in caught.value.message


def test_a_secret_is_read(tmp_path: Path) -> None:
    """64 hexadecimal digits, with or without a line end."""
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    file.chmod(0o600)
    assert read_secret(file) == bytes(32)
    with pytest.raises(StartupError, match="cannot read"):
        read_secret(tmp_path / "missing")
