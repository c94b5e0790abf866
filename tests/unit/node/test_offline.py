"""What is done to the files of stopped members: refused in one sentence, or done whole."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from raftos.config import Config
from raftos.consensus import snapshots
from raftos.consensus.configuration import Configuration, Peer, decode, encode
from raftos.consensus.journal.storage import FileStorage
from raftos.errors import InvalidInput, StartupError
from raftos.node import offline
from raftos.node.directory import DataDirectory
from raftos.state import copying
from raftos.state.command import encode_entry, encode_request, new_request_id
from raftos.state.domains import kv, members
from raftos.state.machine import Machine
from tests.unit.node.test_main import configured

OLD = Configuration((Peer("old-1", "127.0.0.1:1"), Peer("old-2", "127.0.0.1:2")), ("old-0",))


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raftos", *arguments], input=stdin, capture_output=True, text=True, check=False
    )


def written(directory: Path, config: Config) -> str:
    file = directory / "member.json"
    file.write_bytes(msgspec.json.encode(config))
    return str(file)


@pytest.mark.parametrize(
    "arguments",
    [["snapshot"], ["snapshot", "inspect"], ["snapshot", "restore", "file"], ["recover"], ["snapshot", "x"]],
)
def test_bad_usage_is_explained(arguments: list[str]) -> None:
    """With the usage line and exit code 2."""
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: python -m raftos" in done.stderr


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot read the configuration {}: No such file or directory"),
        ("{", "the configuration {} is wrong: "),
    ],
)
def test_a_configuration_that_is_none_is_bad_input(
    tmp_path: Path, content: str | None, sentence: str
) -> None:
    """It was named on the command line, and nothing has failed; a daemon that finds none does not start."""
    file = tmp_path / "member.json"
    if content is not None:
        file.write_text(content)
    for command in (["recover", "--yes", "test"], ["snapshot", "restore", "backup"]):
        done = run(*command, "--config", str(file))
        assert done.returncode == 2
        assert done.stderr.startswith("raftos: " + sentence.format(file))
    assert run("--config", str(file)).returncode == 1


def test_recovery_needs_data_and_the_name_of_the_cluster(tmp_path: Path) -> None:
    """Whoever does not know which cluster it is does not know what will be lost. Nothing changes."""
    config = configured(tmp_path)
    file = written(tmp_path, config)
    empty = run("recover", "--config", file, "--yes", "test")
    assert (empty.returncode, "nothing to recover" in empty.stderr) == (2, True)
    assert not Path(config.data_dir).exists()
    give_identity(config)
    for wrong in (
        run("recover", "--config", file, "--yes", "prod"),
        run("recover", "--config", file, stdin="no\n"),
    ):
        assert wrong.returncode == 2
        assert "nothing was changed" in wrong.stderr
    asked = run("recover", "--config", file, stdin="")
    assert "lost for good" in asked.stderr
    assert "Type the cluster's name, test" in asked.stderr


def test_whoever_recovers_is_told_whose_names_these_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the configuration, and said so: since it was written others may have come, and these gone."""
    config = configured(tmp_path)
    other = msgspec.structs.replace(config.voters[0], id="m2", name="n2")
    give_identity(config)
    for voters, said in (
        ((*config.voters, other), "id (configured at first: n2). Make"),
        (config.voters, "id. Make"),
    ):
        with pytest.raises(InvalidInput, match="nothing was changed"):
            offline.recover(msgspec.structs.replace(config, voters=voters), None, ask=lambda: "no")
        assert said in capsys.readouterr().err


def test_recovery_leaves_a_running_member_alone(tmp_path: Path) -> None:
    """Its daemon holds the data directory."""
    config = configured(tmp_path)
    give_identity(config)
    lock = os.open(config.data_dir, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(StartupError, match="another daemon"):
        offline.recover(config, "test")
    os.close(lock)


def give_identity(config: Config) -> None:
    with DataDirectory(config) as directory:
        directory.claim()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A snapshot of a state of cluster `old`, which has one member and one key."""
    machine = Machine(tmp_path / "old", cluster_id="old")
    commands = [members.Register("old-1", "n1", "", "127.0.0.1:1", "1"), kv.Put("a", b"1")]
    requests = [encode_request(new_request_id(1_000), command) for command in commands]
    machine.apply([(1, encode_entry(1_000, requests))])
    revision, state_hash = machine.revision, machine.state_hash
    machine.checkpoint()
    machine.close()
    state = next(each for each in (tmp_path / "old").iterdir() if each.suffix not in {"-wal", "-shm"})
    header = snapshots.Header(
        cluster_id="old", index=1, term=3, configuration=encode(OLD), time_ms=1_000, revision=revision,
        state_hash=state_hash, state_format=1, raw_bytes=state.stat().st_size, version="0.1.0", created_ms=5,
    )  # fmt: skip
    made = tmp_path / "backup"
    with made.open("wb") as sink:
        snapshots.write_to(sink, header, snapshots.pieces_of(state))
    return made


def test_a_snapshot_is_described_and_a_damaged_one_is_found_out(file: Path) -> None:
    """What its header says; a flipped bit behind it is a verdict and exit code 1."""
    done = run("snapshot", "inspect", str(file))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["cluster_id"], said["index"], said["term"], said["revision"], said["ok"]) == (
        "old",
        1,
        3,
        2,
        True,
    )
    assert [member["id"] for member in said["members"]] == ["old-1", "old-2"]
    damaged = bytearray(file.read_bytes())
    damaged[-100] ^= 1
    file.write_bytes(damaged)
    done = run("snapshot", "inspect", str(file))
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False
    file.write_bytes(b"a poem")
    assert run("snapshot", "inspect", str(file)).stderr.startswith("raftos: ")


def test_a_member_of_a_new_cluster_begins_with_the_state(tmp_path: Path, file: Path) -> None:
    """The snapshot belongs to the new cluster, whose voters are those of the configuration."""
    config = configured(tmp_path)
    done = run("snapshot", "restore", str(file), "--config", written(tmp_path, config))
    assert done.returncode == 0, done.stderr
    folder = Path(config.data_dir)
    assert {each.name for each in folder.iterdir()} == {"identity.json", "snapshots"}
    store = snapshots.SnapshotStore(FileStorage(folder / "snapshots"), "c1")
    newest = store.newest
    assert newest is not None
    assert (newest.header.index, newest.header.term, newest.header.revision) == (1, 3, 2)
    assert decode(newest.header.configuration).voters == ("m1",)
    store.close()
    again = run("snapshot", "restore", str(file), "--config", written(tmp_path, config))
    assert again.returncode == 2
    assert "not empty" in again.stderr


def test_a_restore_that_was_interrupted_is_begun_again(tmp_path: Path, file: Path) -> None:
    """Half a state lies about; and a damaged file leaves a directory that can still be filled."""
    config = configured(tmp_path)
    give_identity(config)
    (Path(config.data_dir) / offline.RESTORING).mkdir()
    (Path(config.data_dir) / offline.RESTORING / "state.db").write_text("half")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(snapshots.CorruptSnapshot):
        offline.restore(file, config)
    assert not (Path(config.data_dir) / "snapshots").exists()
    file.write_bytes(whole)
    assert offline.restore(file, config).revision == 2


@pytest.mark.parametrize(
    ("limit", "most", "sentence"),
    [
        ("LEVEL", 0, "feature level 1, and this version knows up to 0"),
        ("FORMAT", 2, "this version reads 2 to 2"),
    ],
)
def test_a_state_of_a_version_to_come_is_not_restored(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, limit: str, most: int, sentence: str
) -> None:
    """It would be refused at the start, when the cluster has to run; the right version restores it then."""
    config = configured(tmp_path)
    monkeypatch.setattr(copying, limit, most)
    with pytest.raises(StartupError, match=sentence):
        offline.restore(file, config)
    assert not (Path(config.data_dir) / "snapshots").exists()
    monkeypatch.undo()
    assert offline.restore(file, config).revision == 2


def test_only_initial_members_are_restored_and_only_empty_directories(tmp_path: Path) -> None:
    """Refused before anything is read or written."""
    config = configured(tmp_path)
    with pytest.raises(InvalidInput, match="joined later"):
        offline.restore(tmp_path / "none", msgspec.structs.replace(config, joined=True))
    Path(config.data_dir).mkdir()
    (Path(config.data_dir) / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidInput, match=r"thesis\.txt"):
        offline.restore(tmp_path / "none", config)
    shutil.rmtree(config.data_dir)
