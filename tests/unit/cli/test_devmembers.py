"""`raftos dev add | remove | rejoin | recover` where they are refused before anything happens.

What they do is tested with real daemons: tests/cluster/test_membership.py.
"""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from raftos.errors import InvalidInput
from raftos_cli.dev import prepare
from raftos_cli.devcluster import DevCluster
from tests.unit.cli.conftest import Raftos
from tests.unit.cli.terminal import RAFTOS, Terminal
from tests.unit.filling import hardly_any_room


@pytest.fixture
def stopped(home: Path) -> DevCluster:
    """A cluster of three that does not run."""
    cluster = DevCluster.create(home / "dev" / "data", 3)
    cluster.assign_ports(None)
    (home / "dev" / "current").write_text(f"{cluster.directory}\n")
    return cluster


VERBS = [["add"], ["add", "--learner"], ["remove", "1"], ["rejoin", "1"], ["recover", "1", "--yes", "dev"]]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_without_a_cluster_there_is_nothing_to_do(raftos: Raftos, home: Path, verb: list[str]) -> None:
    """Not found, with the command that makes one."""
    done = raftos("dev", *verb)
    assert done.exit_code == 3
    assert "dev start" in done.stderr


@pytest.mark.parametrize("verb", VERBS[:-1], ids=" ".join)
def test_nobody_agrees_while_nobody_runs(raftos: Raftos, stopped: DevCluster, verb: list[str]) -> None:
    """Nothing is put on record, nothing is moved."""
    before = (stopped.directory / "cluster.json").read_bytes()
    done = raftos("dev", *verb)
    assert done.exit_code == 5
    assert "dev start" in done.stderr
    assert (stopped.directory / "cluster.json").read_bytes() == before
    assert not (stopped.directory / "n1" / "joining.json").exists()
    assert not (stopped.directory / "n4").exists()


def test_a_cluster_that_is_half_restored_is_not_started(raftos: Raftos, home: Path, tmp_path: Path) -> None:
    """Some members would begin with the state, others without; restoring again, or --fresh, begins anew."""
    directory = home / "dev" / "data"
    half = DevCluster.create(directory, 3, restoring=True)
    half.assign_ports(None)
    refused = raftos("dev", "start", "--detach")
    assert (refused.exit_code, "snapshot restore" in refused.stderr) == (4, True)
    assert raftos("snapshot", "restore", str(tmp_path / "missing")).exit_code == 2
    assert not directory.exists()
    DevCluster.create(directory, 3, restoring=True)
    assert prepare(directory, None, fresh=True).record.restoring is False


def test_a_half_restored_cluster_that_was_the_present_one_is_no_dead_end(
    raftos: Raftos, home: Path, tmp_path: Path
) -> None:
    """Its folder was deleted before, and the pointer to it stayed."""
    directory = home / "dev" / "data"
    for command in (["snapshot", "restore", str(tmp_path / "missing")], ["dev", "stop", "--purge"]):
        DevCluster.create(directory, 3, restoring=True)
        (home / "dev" / "current").write_text(f"{directory}\n")
        assert raftos("dev", "status").exit_code == 4
        done = raftos(*command)
        assert done.exit_code == (2 if command[0] == "snapshot" else 0), done.stderr
        assert not directory.exists()


def test_agents_come_with_tasks(raftos: Raftos, stopped: DevCluster) -> None:
    """Said so, instead of adding something else."""
    done = raftos("dev", "add", "--agent")
    assert done.exit_code == 2
    assert "tasks" in done.stderr


def test_a_member_that_does_not_exist_is_bad_input(raftos: Raftos, stopped: DevCluster) -> None:
    """For each of the verbs that take a number."""
    for verb in ("remove", "rejoin", "recover"):
        assert raftos("dev", verb, "7").exit_code == 2


def test_giving_something_up_needs_the_name_of_the_cluster(raftos: Raftos, stopped: DevCluster) -> None:
    """A script has to say it; nobody is asked where nobody could answer."""
    file = str(stopped.config_file(stopped.members[0]))
    for command in (["dev", "recover", "1"], ["recover", "--config", file]):
        done = raftos(*command)
        assert done.exit_code == 2
        assert "--yes CLUSTER" in done.stderr
    done = raftos("recover", "--config", file, "--yes", "dev")
    assert done.exit_code == 2
    assert "nothing to recover" in done.stderr


def test_a_configuration_that_is_not_there_is_bad_input(raftos: Raftos, home: Path, tmp_path: Path) -> None:
    """For both commands that take one."""
    missing = str(tmp_path / "none.json")
    for command in (["recover", "--yes", "dev"], ["snapshot", "restore", str(tmp_path / "backup")]):
        done = raftos(*command, "--config", missing)
        assert done.exit_code == 2
        assert f"Error: cannot read the configuration {missing}: No such file" in done.stderr


@pytest.mark.parametrize(
    ("others", "running", "them"),
    [([1], "n2 still runs;", "end it"), ([1, 2], "n2 and n3 still run;", "end them")],
)
def test_whoever_else_runs_is_named_in_a_whole_sentence(
    raftos: Raftos,
    stopped: DevCluster,
    monkeypatch: pytest.MonkeyPatch,
    others: list[int],
    running: str,
    them: str,
) -> None:
    """One runs, two run."""
    monkeypatch.setattr(DevCluster, "living", lambda self: [self.members[other] for other in others])
    refused = raftos("dev", "recover", "1", "--yes", "dev")
    assert refused.exit_code == 4
    assert f"Error: {running}" in refused.stderr
    assert f"{them} first with `raftos dev kill N`" in refused.stderr


@contextmanager
def locked(home: Path) -> Iterator[IO[str]]:
    """As if another `raftos dev` command were at work, until the file is closed."""
    with (home / "dev" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


@pytest.mark.timeout(30)
def test_a_wrong_name_is_refused_before_anything_is_held_or_stopped(
    raftos: Raftos, home: Path, stopped: DevCluster
) -> None:
    """Given or typed: another command may hold the lock meanwhile, and none waits for an answer."""
    with locked(home):
        done = raftos("dev", "recover", "1", "--yes", "wrong")
        assert (done.exit_code, "'wrong' is not the name" in done.stderr) == (2, True)
        with Terminal([*RAFTOS, "dev", "recover", "1"], {"RAFTOS_HOME": str(home)}) as terminal:
            terminal.wait_for_end("to go on:")
            terminal.type("dew\n")
            assert terminal.end() == 2
            assert "nothing was changed" in terminal.seen


@pytest.mark.timeout(30)
def test_a_command_that_waits_for_another_says_so(home: Path, stopped: DevCluster) -> None:
    """It goes on by itself once the other has ended."""
    command = [*RAFTOS, "dev", "kill", "1"]
    with locked(home) as lock, subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as waiting:
        try:
            assert waiting.stderr is not None
            assert "another `raftos dev` command" in waiting.stderr.readline()
            assert waiting.poll() is None
            lock.close()
            assert "n1 was dead already" in waiting.communicate(timeout=20)[1]
        finally:
            waiting.kill()
    assert waiting.returncode == 0


def test_purging_frees_a_full_disk(raftos: Raftos, stopped: DevCluster) -> None:
    """Nothing has to be written before the data is deleted."""
    with hardly_any_room(200):
        done = raftos("dev", "stop", "--purge")
    assert done.exit_code == 0, done.stderr
    assert not stopped.directory.exists()
    assert raftos("dev", "status").exit_code == 3


def test_a_full_disk_does_not_keep_a_cluster_running(raftos: Raftos, stopped: DevCluster) -> None:
    """It is stopped; what could not be recorded is said, and the old record is whole."""
    before = (stopped.directory / "cluster.json").read_bytes()
    with hardly_any_room():
        done = raftos("dev", "stop")
    assert done.exit_code == 0, done.stderr
    assert "could not record it" in done.stderr
    assert (stopped.directory / "cluster.json").read_bytes() == before


def test_a_removed_member_is_not_restarted(raftos: Raftos, stopped: DevCluster) -> None:
    """A conflict that names what brings it back; status shows it for what it is."""
    data = stopped.data_dir(stopped.members[1])
    data.mkdir(parents=True)
    (data / "removed.json").write_text("{}")
    done = raftos("dev", "restart", "2")
    assert done.exit_code == 4
    assert "raftos dev rejoin 2" in done.stderr
    assert "removed" in raftos("dev", "status").stdout


def test_a_file_that_is_no_snapshot_is_one_sentence(raftos: Raftos, home: Path, tmp_path: Path) -> None:
    """By the program that reads it, handed on with its exit code."""
    for command in (["inspect"], ["restore", "--nodes", "1"]):
        done = raftos("snapshot", *command[:1], str(tmp_path / "missing"), *command[1:])
        assert done.exit_code == 2, done.stderr
        assert "cannot read" in done.stderr
    assert not (home / "dev" / "data").exists()


def test_a_snapshot_is_not_restored_over_something(
    raftos: Raftos, stopped: DevCluster, tmp_path: Path
) -> None:
    """A folder that holds a cluster, and options that contradict each other."""
    done = raftos("snapshot", "restore", str(tmp_path / "missing"))
    assert done.exit_code == 2
    assert "not empty" in done.stderr
    assert "--purge" in done.stderr
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").touch()
    elsewhere = raftos("snapshot", "restore", "missing", "--data-dir", str(tmp_path / "photos"))
    assert (elsewhere.exit_code, "--purge" in elsewhere.stderr) == (2, False)
    assert raftos("snapshot", "restore", "x", "--config", "y", "--detach").exit_code == 2


@pytest.mark.parametrize("ending", [InvalidInput("refused"), KeyboardInterrupt(), None], ids=repr)
def test_the_others_are_removed_on_record_before_one_goes_on_alone(
    raftos: Raftos, stopped: DevCluster, monkeypatch: pytest.MonkeyPatch, ending: BaseException | None
) -> None:
    """Whatever stops it half-way, who does not know is not started; where it is refused nothing changes."""
    recorded = []

    def recovered(*_: object) -> None:
        recorded.append(removed(stopped))
        raise ending or AssertionError("struck down")

    monkeypatch.setattr("raftos_cli.recover.recovered", recovered)
    raftos("dev", "recover", "1", "--yes", "dev")
    assert recorded == [[False, True, True]]
    assert removed(stopped) == ([False] * 3 if isinstance(ending, InvalidInput) else [False, True, True])


def removed(cluster: DevCluster) -> list[bool]:
    return [member.removed for member in DevCluster.open(cluster.directory).members]
