"""The record, the ports and, above all, never touching a process that is not ours."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from raftos.config import load
from raftos.errors import Conflict, InvalidInput, NotFound, StartupError
from raftos_cli.devcluster import LOOPBACK, PORTS, DevCluster, Member, hold_port, undisturbed
from raftos_cli.joining import Home
from tests.unit.filling import hardly_any_room


@pytest.fixture
def cluster(tmp_path: Path) -> DevCluster:
    made = DevCluster.create(tmp_path / "data", 3)
    made.assign_ports(None)
    return made


@pytest.fixture
def stranger() -> Iterator[psutil.Process]:
    """A living process that no dev cluster has started."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        try:
            yield psutil.Process(child.pid)
        finally:
            child.kill()


def test_a_cluster_is_found_again_as_it_was_recorded(cluster: DevCluster) -> None:
    """Ids, ports and secret survive; ids are minted, each its own."""
    again = DevCluster.open(cluster.directory)
    assert again.record == cluster.record
    assert len({member.id for member in again.members}) == 3
    assert len(bytes.fromhex(again.secret())) == 32


def test_only_the_user_can_read_the_secret_and_the_record(cluster: DevCluster) -> None:
    """The secret opens everything."""
    assert cluster.secret_file.stat().st_mode & 0o777 == 0o600
    assert (cluster.directory / "cluster.json").stat().st_mode & 0o777 == 0o600
    assert cluster.directory.stat().st_mode & 0o777 == 0o700


def test_the_record_the_secret_and_the_configurations_survive_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them nobody could start what the members keep so carefully."""
    synced: set[int] = set()
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    cluster = DevCluster.create(tmp_path / "data", 3)
    cluster.assign_ports(None)
    files = [
        cluster.secret_file,
        cluster.directory / "cluster.json",
        *map(cluster.config_file, cluster.members),
    ]
    folders = [tmp_path, cluster.directory, *map(cluster.home, cluster.members)]
    assert [each for each in (*files, *folders) if each.stat().st_ino not in synced] == []


def test_every_member_gets_a_configuration_the_daemon_accepts(cluster: DevCluster) -> None:
    """Three members, six different ports, one list of voters."""
    configs = [load(cluster.config_file(member)) for member in cluster.members]
    assert [config.name for config in configs] == ["n1", "n2", "n3"]
    assert len({config.voters for config in configs}) == 1
    assert len({port for config in configs for port in (config.api_address, config.peer_address)}) == 6


def test_ports_are_kept_while_they_are_free(cluster: DevCluster) -> None:
    """A second start uses the same addresses, unless somebody has taken one meanwhile."""
    before = [(member.api_port, member.peer_port) for member in cluster.members]
    cluster.assign_ports(None)
    assert [(member.api_port, member.peer_port) for member in cluster.members] == before
    with socket.create_server((LOOPBACK, before[0][0])):
        cluster.assign_ports(None)
    assert cluster.members[0].api_port != before[0][0]
    assert cluster.members[1].api_port == before[1][0]


def test_a_chosen_port_that_is_in_use_is_refused(cluster: DevCluster) -> None:
    """The user said which, so no other is taken in its place."""
    with socket.create_server((LOOPBACK, 0)) as taken, pytest.raises(StartupError, match="in use"):
        cluster.assign_ports(taken.getsockname()[1])


def test_fresh_ports_lie_below_those_of_outgoing_connections() -> None:
    """A connection to a dead member can never meet itself."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    with contextlib.ExitStack() as held:
        ports = [hold_port(held, 0, None) for _ in range(20)]
    assert len(set(ports)) == 20
    assert all(port in PORTS and port < lowest for port in ports)


def test_a_recycled_pid_is_never_signalled(cluster: DevCluster, stranger: psutil.Process) -> None:
    """A process with the recorded pid but another start time, or another command line, is left alone."""
    member = cluster.members[0]
    for started_s in (stranger.create_time() - 3600, stranger.create_time()):
        member.pid, member.started_s = stranger.pid, started_s
        assert cluster.state(member) == "dead"
        cluster.kill([member])
        cluster.stop([member])
        with pytest.raises(Conflict, match="not running"):
            cluster.pause(member)
    assert stranger.is_running()
    assert stranger.status() != psutil.STATUS_STOPPED


@pytest.mark.parametrize("number", [0, 4, 10**18])
def test_a_member_that_does_not_exist_is_bad_input(cluster: DevCluster, number: int) -> None:
    """The sentence says which there are."""
    with pytest.raises(InvalidInput, match="members 1 to 3"):
        cluster.member(number)


def grown(cluster: DevCluster) -> Member:
    """A fourth member, on record and with a configuration, as if it had joined."""
    plan = Home(cluster.directory / "n4", cluster.secret_file).begin("n4", "voter")
    member = Member(plan.id, "n4", plan.api_port, plan.peer_port, joined=True)
    cluster.enter(member)
    return member


def test_a_member_that_has_not_joined_is_no_part_of_a_start(cluster: DevCluster) -> None:
    """It has no configuration yet; a restart of it alone says how it gets one."""
    member = grown(cluster)
    assert [each.name for each in cluster.members] == ["n1", "n2", "n3", "n4"]
    assert [each.name for each in cluster.active] == ["n1", "n2", "n3"]
    cluster.assign_ports(None)
    assert not cluster.config_file(member).exists()
    with pytest.raises(Conflict, match="dev add"):
        cluster.refuse_to_start(member)


def test_a_member_that_joined_knows_the_others_and_is_no_initial_voter(cluster: DevCluster) -> None:
    """The configurations of a second start: the first three begin with each other, the fourth finds them."""
    member = grown(cluster)
    (cluster.home(member) / "joining.json").unlink()
    cluster.assign_ports(None)
    for each in cluster.members:
        config = load(cluster.config_file(each))
        assert [voter.name for voter in config.voters] == ["n1", "n2", "n3"]
        assert config.joined is (each is member)
    assert DevCluster.open(cluster.directory).record == cluster.record


def test_a_removed_member_is_shown_so_and_is_not_started(cluster: DevCluster) -> None:
    """Its daemon wrote down what it was told; the sentence names what brings it back."""
    first, second, _ = cluster.members
    cluster.data_dir(first).mkdir(parents=True)
    (cluster.data_dir(first) / "removed.json").write_text("{}")
    second.removed = True
    assert [cluster.state(each) for each in cluster.members] == ["removed", "removed", "dead"]
    assert [each.name for each in cluster.active] == ["n3"]
    with pytest.raises(Conflict, match="raftos dev rejoin 1"):
        cluster.refuse_to_start(first)


def test_a_member_that_has_lost_its_data_is_not_started(cluster: DevCluster) -> None:
    """Empty, under its old id, it would have forgotten its votes and what it acknowledged."""
    first, second, _ = cluster.members
    cluster.data_dir(second).mkdir()
    identity = cluster.data_dir(second) / "identity.json"
    identity.write_text("{}")
    cluster.note_begun()
    again = DevCluster.open(cluster.directory)
    assert [each.begun for each in again.members] == [False, True, False]
    for member in (first, second):
        again.refuse_to_start(member)
    identity.unlink()
    with pytest.raises(Conflict, match="raftos dev rejoin 2"):
        again.refuse_to_start(again.members[1])


def test_a_record_that_knows_of_no_beginning_is_believed(cluster: DevCluster) -> None:
    """Those of earlier versions: such a member counts as one that has not begun."""
    file = cluster.directory / "cluster.json"
    file.write_text(re.sub(r',\s*"begun": false', "", file.read_text()))
    assert "begun" not in file.read_text()
    again = DevCluster.open(cluster.directory)
    assert again.record == cluster.record
    again.refuse_to_start(again.members[0])


def test_a_member_without_its_configuration_is_not_started(cluster: DevCluster) -> None:
    """The sentence names what brings it back; a start of all is the gentler way."""
    member = cluster.members[1]
    cluster.config_file(member).unlink()
    with pytest.raises(Conflict, match="raftos dev rejoin 2"):
        cluster.refuse_to_start(member)
    cluster.assign_ports(None)
    cluster.refuse_to_start(member)


@pytest.mark.parametrize("purge", [False, True])
def test_a_member_that_left_makes_room_for_its_name(cluster: DevCluster, purge: bool) -> None:
    """Its folder is kept under another name, or deleted; purging the cluster takes that too."""
    member = cluster.members[1]
    cluster.leave(member, purge=purge)
    again = DevCluster.open(cluster.directory)
    assert [each.name for each in again.members] == ["n1", "n3"]
    assert not again.home(member).exists()
    assert (again.directory / f"n2-{member.id}").exists() is not purge
    with pytest.raises(InvalidInput, match="members 1, 3"):
        again.member(2)
    again.leave(member, purge=purge)
    again.purge()
    assert not again.directory.exists()


def test_a_directory_with_other_files_is_not_taken_over(tmp_path: Path) -> None:
    """Nothing that raftos did not write is ever mixed with a cluster."""
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="not empty"):
        DevCluster.create(tmp_path, 3)


@pytest.mark.parametrize("name", ["secret", "secret.new"])
def test_a_secret_of_somebody_elses_is_not_replaced(tmp_path: Path, name: str) -> None:
    """Only what an interrupted creation can have written is taken for its rest."""
    (tmp_path / name).write_text("the treasure is under the oak")
    with pytest.raises(InvalidInput, match="not empty"):
        DevCluster.create(tmp_path, 3)


@pytest.mark.parametrize(
    "left", [{"secret.new": ""}, {"secret.new": "0f" * 9}, {"secret": "0f" * 32, "cluster.json.new": "{"}]
)
def test_a_creation_that_was_struck_down_is_begun_again(tmp_path: Path, left: dict[str, str]) -> None:
    """Whatever stood on disk at that moment, between any two lines; the new cluster is whole."""
    for name, text in left.items():
        (tmp_path / name).write_text(text)
    made = DevCluster.create(tmp_path, 3)
    assert DevCluster.open(tmp_path).record == made.record
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cluster.json", "secret"]
    made.purge()
    assert not tmp_path.exists()


@pytest.mark.parametrize("room_bytes", [0, 200], ids=["no secret", "no record"])
def test_a_creation_that_fails_leaves_nothing(tmp_path: Path, room_bytes: int) -> None:
    """Here at the limit of what a file may hold, which fails as a full disk does; with room it succeeds."""
    with hardly_any_room(room_bytes), pytest.raises(OSError, match="too large"):
        DevCluster.create(tmp_path / "data", 3)
    assert not (tmp_path / "data").exists()
    assert len(DevCluster.create(tmp_path / "data", 3).members) == 3


def test_purging_deletes_only_what_the_cluster_wrote(cluster: DevCluster) -> None:
    """A file that somebody put beside it survives, and so does its directory."""
    (cluster.directory / "thesis.txt").write_text("mine")
    cluster.purge()
    assert [file.name for file in cluster.directory.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("record", [b"", b"{", b'{"cluster": 1}', b"\xff"])
def test_a_damaged_record_is_one_sentence(cluster: DevCluster, record: bytes) -> None:
    """It names the file."""
    (cluster.directory / "cluster.json").write_bytes(record)
    with pytest.raises(InvalidInput, match=r"cluster\.json"):
        DevCluster.open(cluster.directory)


def test_a_missing_record_is_not_found(tmp_path: Path) -> None:
    """It is no error of the user's that there is no cluster yet."""
    with pytest.raises(NotFound):
        DevCluster.open(tmp_path)


def test_a_daemon_that_cannot_be_started_is_one_sentence(cluster: DevCluster) -> None:
    """Here: its log cannot be opened."""
    cluster.log_file(cluster.members[0]).mkdir()
    with pytest.raises(StartupError, match="cannot start n1"):
        cluster.spawn(cluster.members[0])


def test_ctrl_c_waits_until_a_daemon_is_on_record(cluster: DevCluster) -> None:
    """And is not lost by waiting; so the one who was interrupted finds what it has to end."""
    done: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        interrupt_within(done)
    assert done
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def interrupt_within(done: list[bool]) -> None:
    with undisturbed():
        signal.raise_signal(signal.SIGINT)
        done.append(True)


def test_a_daemon_is_known_from_its_first_moment(cluster: DevCluster) -> None:
    """The system shows its command line a moment after its start; until then it must not seem dead."""
    member = cluster.members[0]
    try:
        for _ in range(20):
            cluster.spawn(member)
            assert cluster.state(member) == "running"
            cluster.kill([member])
    finally:
        cluster.kill([member])
