"""A daemon that cannot start says why in one sentence, exits with 1, and changes nothing.

Each case prepares one thing that is wrong, starts the daemon and compares its whole data directory before
and after. The directory was used before: by a member that was stopped, or by one that was killed, whose
SQLite still has a write-ahead log.

Files are compared byte by byte, except those of the state: SQLite folds the write-ahead log into the
database whenever it may write to it, which changes both and the content of neither. So the content is
compared; and the bytes as well where the state is somebody else's.
"""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.daemons import Cluster, running_cluster, wait_until
from tests.cluster.disks import fill, mounted

REFUSED_WITHIN_S = 20.0
however_it_ended = pytest.mark.parametrize("origin", ["stopped", "killed"], indirect=True)
Tree = dict[str, bytes | None]


def tree_of(folder: Path) -> Tree:
    """Every file under a folder with its content, and every folder.

    Without SQLite's index of the write-ahead log, which any reader makes anew, and without an empty log.
    """
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else None
        if not path.name.endswith("-shm") and not (path.name.endswith("-wal") and content == b""):
            found[str(path.relative_to(folder))] = content
    return found


def content_of(state: Path) -> list[str]:
    """What a database and its write-ahead log hold together, read from a copy."""
    with tempfile.TemporaryDirectory() as elsewhere:
        shutil.copytree(state, elsewhere, dirs_exist_ok=True)
        with closing(sqlite3.connect(Path(elsewhere) / "state.sqlite3")) as db:
            return list(db.iterdump())


class Used:
    """The data directory of a one-member cluster that was used before, and its configuration."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.member = cluster.members[0]
        self.data_dir = cluster.dev.data_dir(self.member)
        self.config_file = cluster.dev.config_file(self.member)

    @property
    def journal(self) -> Path:
        """Its only segment."""
        [segment] = (self.data_dir / "journal").iterdir()
        return segment

    @property
    def state(self) -> Path:
        return self.data_dir / "state" / "state.sqlite3"

    def configure(self, **changes: Any) -> Path:
        """A second configuration that differs from the member's own."""
        other = self.config_file.with_name("other.json")
        other.write_text(json.dumps(json.loads(self.config_file.read_text()) | changes))
        return other

    def refuses(self, config: Path | None = None, *, same_bytes: bool = False) -> str:
        """The sentence with which a start ends; the data directory is the same as before."""
        before, content = tree_of(self.data_dir), content_of(self.state.parent)
        sentence = refusal(config or self.config_file)
        changed = set(dict(before.items() ^ tree_of(self.data_dir).items()))
        if not same_bytes:
            changed -= {f"state/{self.state.name}", f"state/{self.state.name}-wal"}
        assert not changed, f"refused ({sentence}), but changed {sorted(changed)}"
        assert content_of(self.state.parent) == content, sentence
        return sentence

    def works_again(self) -> None:
        """Once what was wrong is right, the member starts and has everything."""
        self.cluster.start()
        self.has_everything()

    def has_everything(self) -> None:
        with self.cluster.client() as client:
            assert client.kv.get("kept").value == b"1"


def refusal(config: Path) -> str:
    """Start a daemon that has to refuse; returns its one sentence."""
    done = subprocess.run(
        [sys.executable, "-m", "raftos", "--config", str(config)],
        cwd=config.parent,
        check=False,
        capture_output=True,
        text=True,
        timeout=REFUSED_WITHIN_S,
    )
    assert done.returncode == 1, done
    assert done.stdout == ""
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith("raftos: "), sentence
    assert "Traceback" not in sentence
    return sentence


@pytest.fixture(scope="module")
def origin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A member with a little data that was killed, or `stopped`; a copy of all its files lies beside it."""
    with running_cluster(tmp_path_factory.mktemp("origin"), 1) as made:
        made.start()
        with made.client() as client:
            client.kv.put("kept", "1")
            for number in range(20):
                client.kv.put(f"filling/{number}", "x" * 1000)
        if getattr(request, "param", "killed") == "stopped":
            made.stop()
        else:
            made.kill(*made.members)
        shutil.copytree(made.dev.directory, made.directory / "copy")
        yield made


@pytest.fixture
def used(origin: Cluster) -> Iterator[Used]:
    """The files of that member as they were when it ended."""
    shutil.rmtree(origin.dev.directory)
    shutil.copytree(origin.directory / "copy", origin.dev.directory)
    yield Used(origin)
    origin.kill(*origin.members)


def test_a_second_daemon_on_one_data_directory(used: Used) -> None:
    """Whatever its ports are. The first, asleep meanwhile so that nothing else moves, is not disturbed."""
    used.works_again()
    used.cluster.pause(used.member)
    assert "another daemon uses the data directory" in used.refuses()
    other = used.configure(api_address="127.0.0.1:0", peer_address="127.0.0.1:0")
    assert "another daemon uses the data directory" in used.refuses(other)
    used.cluster.resume(used.member)
    with used.cluster.client() as client:
        assert client.kv.put("kept", "2").version == 2


@however_it_ended
@pytest.mark.parametrize("port", ["api_port", "peer_port"])
def test_a_port_in_use(used: Used, port: str) -> None:
    """The sentence names it; once the port is free, all is as before."""
    number = getattr(used.member, port)
    with socket.create_server(("127.0.0.1", number)):
        assert str(number) in used.refuses()
    used.works_again()


def test_a_file_in_place_of_the_data_directory(used: Used, tmp_path: Path) -> None:
    """It stays the file that it was."""
    file = tmp_path / "file"
    file.write_text("precious")
    assert str(file) in used.refuses(used.configure(data_dir=str(file)))
    assert str(file) in used.refuses(used.configure(data_dir=str(file / "data")))
    assert file.read_text() == "precious"


@pytest.mark.root
def test_a_read_only_data_directory(used: Used, tmp_path: Path) -> None:
    """Root may write anywhere but to a disk that is mounted read-only."""
    folder = tmp_path / "read-only"
    with mounted(folder, "ro"):
        sentence = used.refuses(used.configure(data_dir=str(folder)))
        assert "Read-only file system" in sentence
        assert list(folder.iterdir()) == []


@pytest.mark.root
@pytest.mark.parametrize("spare_kib", [0, 8, 64])
def test_a_full_disk_for_a_new_member(used: Used, spare_kib: int) -> None:
    """No space for anything, or for the beginning only; once there is space, it starts."""
    used.config_file.with_suffix(".begun").unlink()  # As if it had never been there.
    with mounted(used.data_dir, "size=1m"):
        filler = used.data_dir / "filler"
        fill(filler, spare_bytes=spare_kib * 1024)
        assert str(used.data_dir) in refusal(used.config_file)
        filler.unlink()
        used.cluster.start()
        used.cluster.kill(used.member)


@pytest.mark.root
def test_a_disk_that_is_not_the_members_own(used: Used) -> None:
    """Its own was not mounted, or is a new one: there it would begin anew, without what it promised."""
    with mounted(used.data_dir, "size=4m"):
        assert "the journal of this member is gone" in refusal(used.config_file)
    used.works_again()


@pytest.mark.root
@however_it_ended
def test_a_full_disk_for_a_member_with_data(used: Used, tmp_path: Path) -> None:
    """It refuses, or it runs and says that it cannot serve; with space it has all that it had."""
    moved = shutil.move(used.data_dir, tmp_path / "moved")
    with mounted(used.data_dir, "size=4m"):
        shutil.copytree(moved, used.data_dir, dirs_exist_ok=True)
        filler = used.data_dir / "filler"
        fill(filler)
        used.cluster.spawn(used.member)
        wait_until("it refuses or says why it cannot serve", lambda: complains(used))
        filler.unlink()
        if used.cluster.is_running(used.member):
            used.cluster.wait_ready()
        else:
            used.cluster.start()
        used.has_everything()
        used.cluster.kill(used.member)


def complains(used: Used) -> bool:
    """Whether the daemon has ended with a sentence, or runs and tells of the full disk."""
    if not used.cluster.is_running(used.member):
        last = used.cluster.log(used.member).splitlines()[-1]
        assert last.startswith("raftos: "), last
        return True
    answer = used.cluster.ask(used.member, "/readyz")
    return answer is not None and answer.status == 503 and b"full" in answer.body


@however_it_ended
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_corrupt_journal(used: Used, part: float) -> None:
    """One wrong byte in the middle: the sentence names the file and says how to go on."""
    content = bytearray(used.journal.read_bytes())
    written = len(content.rstrip(b"\0"))
    content[int(written * part)] ^= 0xFF
    used.journal.write_bytes(content)
    sentence = used.refuses()
    assert used.journal.name in sentence
    assert "new id" in sentence


@however_it_ended
def test_a_lost_journal(used: Used) -> None:
    """A member without its log has forgotten its votes: it does not start with an empty one."""
    kept = used.journal.read_bytes()
    segment = used.journal
    segment.unlink()
    assert "the journal of this member is gone" in used.refuses()
    segment.write_bytes(kept)
    used.works_again()


@pytest.mark.parametrize("field", ["cluster_id", "member_id"])
def test_the_data_directory_of_another(used: Used, field: str) -> None:
    """Of another cluster, or of another member of this one."""
    config = json.loads(used.config_file.read_text())
    own = config["voters"][0]
    voters = [own, {**own, "id": "another", "name": "n9"}]
    sentence = used.refuses(used.configure(voters=voters, **{field: "another"}))
    assert "belongs to" in sentence
    used.works_again()


@however_it_ended
def test_the_state_of_another_cluster_beside_the_right_identity(used: Used) -> None:
    """A folder that was copied together by hand."""
    change_state(used, "UPDATE machine SET cluster_id = 'another'")
    assert "belongs to cluster 'another'" in used.refuses(same_bytes=True)


def test_a_newer_data_directory(used: Used) -> None:
    """The sentence says which version is needed; the newer version's files are not touched."""
    identity = used.data_dir / "identity.json"
    kept = identity.read_text()
    identity.write_text(json.dumps(json.loads(kept) | {"format": 99, "and": "something new"}))
    assert "format 99" in used.refuses()
    identity.write_text(kept)
    used.works_again()


@however_it_ended
def test_a_newer_state(used: Used) -> None:
    """The same for the format of the state alone."""
    change_state(used, "UPDATE machine SET format = 99")
    assert "format 99" in used.refuses(same_bytes=True)


def change_state(used: Used, statement: str) -> None:
    """Change the state, leaving a write-ahead log beside it exactly if there was one."""
    before = tree_of(used.data_dir / "state")
    with closing(sqlite3.connect(used.state, isolation_level=None)) as db:
        db.execute(statement)
        inside = tree_of(used.data_dir / "state")
    if f"{used.state.name}-wal" in before:
        for name, content in inside.items():
            (used.state.parent / name).write_bytes(content or b"")


def test_an_identity_that_is_missing_or_damaged(used: Used) -> None:
    """Data without an owner is nobody's to take."""
    identity = used.data_dir / "identity.json"
    kept = identity.read_bytes()
    identity.unlink()
    assert "identity.json" in used.refuses()
    for damaged in (b"", b"{}", b"\xff"):
        identity.write_bytes(damaged)
        assert "identity.json" in used.refuses()
    identity.write_bytes(kept)
    used.works_again()


def test_a_secret_that_is_missing_open_or_wrong(used: Used) -> None:
    """The sentence says what to do; the secret itself is in none of them."""
    secret = used.cluster.dev.secret_file
    kept = secret.read_text()
    secret.chmod(0o644)
    assert f"chmod 600 {secret}" in used.refuses()
    secret.chmod(0o600)
    for wrong in ("", kept[:-2], "zz" * 32):
        secret.write_text(wrong)
        sentence = used.refuses()
        assert "32 bytes as hex" in sentence
        assert len(wrong) < 3 or wrong not in sentence
    secret.unlink()
    assert str(secret) in used.refuses()
    secret.touch(mode=0o600)
    secret.write_text(kept)
    used.works_again()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"api_address": "0.0.0.0:4001"}, "loopback"),
        ({"peer_address": "192.0.2.1:4001"}, "loopback"),
        ({"api_address": "127.0.0.1:99999"}, "host:port"),
        ({"voters": []}, "not among the voters"),
        ({"election_timeout_ms": "soon"}, "election_timeout_ms"),
        ({"electoin_timeout_ms": 100}, "electoin_timeout_ms"),
        ({"secret_file": None}, "secret_file"),
        ({"log_level": "loud"}, "log_level"),
    ],
)
def test_a_wrong_configuration(used: Used, changes: dict[str, Any], says: str) -> None:
    """The sentence names what is wrong."""
    assert says in used.refuses(used.configure(**changes))


def test_a_configuration_that_cannot_be_read(used: Used) -> None:
    """Missing, empty, not JSON, not an object."""
    missing = used.config_file.with_name("missing.json")
    assert str(missing) in used.refuses(missing)
    other = used.configure()
    for text in ("", "{", "[]"):
        other.write_text(text)
        assert str(other) in used.refuses(other)
    assert str(used.config_file.parent) in used.refuses(used.config_file.parent)
