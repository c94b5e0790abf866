"""`raftos start` and the folder of a member, against the real API of three members.

Every crash is the same command run again: what was written before it has to be enough.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from raftos.client import Client
from raftos.config import Config, load
from raftos.consensus.memory import MemoryCluster
from raftos.errors import Conflict, InvalidInput, NoQuorum
from raftos_cli.devcluster import hold_port
from raftos_cli.joining import Home
from tests.unit.cli.conftest import Raftos
from tests.unit.cli.terminal import RAFTOS
from tests.unit.client.conftest import SECRET

pytestmark = [pytest.mark.timeout(60)]


def joined(folder: Path) -> Config:
    return load(folder / "member.json")


def test_a_member_joins_and_has_all_it_needs(raftos: Raftos, cluster: list[str], tmp_path: Path) -> None:
    """Its configuration says where the others are, and a daemon takes it; the secret is a file of its own."""
    folder = tmp_path / "mine"
    done = raftos(
        "start", "--join", cluster[1], "--name", "n4", "--data-dir", str(folder), "--prepare", "-o", "json"
    )
    assert done.exit_code == 0, done.stderr
    config = joined(folder)
    assert json.loads(done.stdout)["id"] == config.member_id
    assert (config.name, config.joined, config.cluster, config.cluster_id) == ("n4", True, "test", "c1")
    assert [voter.endpoint for voter in config.voters] == cluster
    assert Path(config.secret_file).read_text() == SECRET.hex()
    assert Path(config.secret_file).stat().st_mode & 0o777 == 0o600
    assert not (folder / "joining.json").exists()
    with Client() as client:
        [mine] = [each for each in client.members.show().items if each.name == "n4"]
    assert (mine.id, mine.peer_address, mine.state) == (config.member_id, config.peer_address, "joining")
    listed = json.loads(raftos("node", "ls", "-o", "json").stdout)["nodes"]
    assert [(node["name"], node["role"], node["state"]) for node in listed][-1] == (
        "n4",
        "learner",
        "joining",
    )


def test_a_member_that_has_joined_asks_nobody_again(
    raftos: Raftos, cluster: list[str], agreement: MemoryCluster, tmp_path: Path
) -> None:
    """The second start works without a cluster, and with another name it is refused."""
    start = ("start", "--data-dir", str(tmp_path / "mine"), "--prepare")
    assert raftos(*start, "--join", cluster[0], "--name", "n4").exit_code == 0
    before = (joined(tmp_path / "mine"), agreement.configuration)
    for name in ("n1", "n2", "n3"):
        agreement.cut(name)
    assert raftos(*start).exit_code == 0
    assert raftos(*start, "--join", "http://127.0.0.1:9").exit_code == 0
    assert (joined(tmp_path / "mine"), agreement.configuration) == before
    assert raftos(*start, "--name", "n5").exit_code == 2


def test_a_join_that_was_interrupted_goes_on_with_the_same_id(
    raftos: Raftos, cluster: list[str], agreement: MemoryCluster, tmp_path: Path
) -> None:
    """Before it was let in, and after it was let in but before it knew."""
    folder = tmp_path / "mine"
    start = (
        "start",
        "--join",
        cluster[0],
        "--data-dir",
        str(folder),
        "--name",
        "n4",
        "--prepare",
        "--timeout",
        "1",
    )
    for name in ("n1", "n2"):
        agreement.cut(name)
    assert raftos(*start).exit_code == 5
    plan = Home(folder).plan()
    assert plan is not None
    for name in ("n1", "n2"):
        agreement.heal(name)
    with Client() as client:
        client.members.add(plan.id, "n4", peer_address="127.0.0.1:1", endpoint="http://127.0.0.1:1")
    assert raftos("start", "--data-dir", str(folder), "--prepare").exit_code == 0
    assert joined(folder).member_id == plan.id
    assert len(agreement.configuration.peers) == 4
    with Client() as client:
        [mine] = [each for each in client.members.show().items if each.name == "n4"]
    assert mine.peer_address == joined(folder).peer_address


def test_a_port_that_was_taken_meanwhile_is_replaced(
    raftos: Raftos, cluster: list[str], tmp_path: Path
) -> None:
    """Between the decision and the join, somebody else may listen there."""
    home = Home(tmp_path / "mine")
    plan = home.begin("n4", "voter")
    with socket.create_server(("127.0.0.1", plan.api_port)):
        assert raftos("start", "--data-dir", str(tmp_path / "mine"), "--prepare").exit_code == 0
    config = joined(tmp_path / "mine")
    assert config.api_address != f"127.0.0.1:{plan.api_port}"
    assert config.peer_address == f"127.0.0.1:{plan.peer_port}"


def free_port() -> int:
    with contextlib.ExitStack() as held:
        return hold_port(held, 0, None)


def test_a_member_that_has_joined_moves_to_another_port(
    raftos: Raftos, cluster: list[str], tmp_path: Path
) -> None:
    """Its API alone, durably, and without asking anybody; what else was set stays."""
    folder = tmp_path / "mine"
    prepared(raftos, cluster, folder)
    before = changed(folder, advertised_peer_address="127.0.0.1:1", heartbeat_ms=50)
    wanted = free_port()
    start = ("start", "--data-dir", str(folder), "--prepare", "-o", "json")
    done = raftos(*start, "--join", "http://127.0.0.1:9", "--port", str(wanted))
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["endpoint"] == f"http://127.0.0.1:{wanted}"
    assert joined(folder) == msgspec.structs.replace(before, api_address=f"127.0.0.1:{wanted}")
    assert raftos(*start).exit_code == 0
    assert joined(folder).api_address == f"127.0.0.1:{wanted}"


def changed(folder: Path, **settings: object) -> Config:
    """Change `member.json` by hand."""
    file = folder / "member.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return joined(folder)


def test_the_port_a_member_has_changes_nothing(raftos: Raftos, cluster: list[str], tmp_path: Path) -> None:
    """A service is started again with the same command line: not even while a daemon runs is it refused."""
    folder = tmp_path / "mine"
    wanted = str(free_port())
    start = ("start", "--join", cluster[0], "--name", "n4", "--data-dir", str(folder), "--prepare")
    assert raftos(*start, "--port", wanted).exit_code == 0
    (folder / "data").mkdir()
    before = (folder / "member.json").stat()
    with daemon_of(folder), socket.create_server(("127.0.0.1", int(wanted))):
        assert raftos(*start, "--port", wanted).exit_code == 0
    assert (folder / "member.json").stat() == before
    assert joined(folder).api_address == f"127.0.0.1:{wanted}"


def test_a_taken_peer_port_is_replaced_with_the_other(
    raftos: Raftos, cluster: list[str], tmp_path: Path
) -> None:
    """Whoever names another port, as the daemon asks for, gets one for the peers as well if need be."""
    folder = tmp_path / "mine"
    before = prepared(raftos, cluster, folder)
    wanted = free_port()
    with socket.create_server(("127.0.0.1", int(before.peer_address.rpartition(":")[2]))):
        start = ("start", "--data-dir", str(folder), "--prepare")
        assert raftos(*start, "--port", str(wanted)).exit_code == 0
    after = joined(folder)
    assert after.api_address == f"127.0.0.1:{wanted}"
    assert after.peer_address not in {before.peer_address, after.api_address}


def test_a_member_of_the_first_hour_moves_with_its_entry_among_the_voters(
    raftos: Raftos, cluster: list[str], tmp_path: Path
) -> None:
    """Its own endpoint is what it tells the others."""
    folder = tmp_path / "mine"
    before = prepared(raftos, cluster, folder)
    own = {
        "id": before.member_id,
        "name": "n4",
        "peer_address": before.peer_address,
        "endpoint": f"http://{before.api_address}",
    }
    changed(folder, joined=False, voters=[own])
    wanted = free_port()
    assert raftos("start", "--data-dir", str(folder), "--prepare", "--port", str(wanted)).exit_code == 0
    [voter] = joined(folder).voters
    assert (voter.endpoint, voter.peer_address) == (f"http://127.0.0.1:{wanted}", before.peer_address)


def test_a_port_that_cannot_be_had_changes_nothing(
    raftos: Raftos, cluster: list[str], tmp_path: Path
) -> None:
    """Somebody else listens there, or the daemon still runs."""
    folder = tmp_path / "mine"
    before = prepared(raftos, cluster, folder)
    start = ("start", "--data-dir", str(folder), "--prepare", "--port")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        done = raftos(*start, number)
        assert (done.exit_code, f"port {number} is in use" in done.stderr) == (1, True)
    with daemon_of(folder):
        done = raftos(*start, str(free_port()))
        assert (done.exit_code, "stop it" in done.stderr) == (Conflict.exit_code, True)
    assert joined(folder) == before


def prepared(raftos: Raftos, cluster: list[str], folder: Path) -> Config:
    done = raftos("start", "--join", cluster[0], "--name", "n4", "--data-dir", str(folder), "--prepare")
    assert done.exit_code == 0, done.stderr
    (folder / "data").mkdir()
    (folder / "data" / "journal").write_text("damaged")
    return joined(folder)


def test_a_member_rejoins_under_a_new_id_and_keeps_its_name(
    raftos: Raftos, cluster: list[str], agreement: MemoryCluster, tmp_path: Path
) -> None:
    """The old id is removed, its data moved aside; with --purge it is deleted."""
    folder = tmp_path / "mine"
    ids = [prepared(raftos, cluster, folder).member_id]
    for purge in ((), ("--purge",)):
        done = raftos("start", "--rejoin", *purge, "--data-dir", str(folder), "--prepare")
        assert done.exit_code == 0, done.stderr
        ids.append(joined(folder).member_id)
        assert not (folder / "data").exists()
        (folder / "data").mkdir()
    assert len(set(ids)) == 3
    assert agreement.configuration.removed == tuple(ids[:2])
    kept = [each.name for each in folder.iterdir() if each.name.startswith("data.was")]
    assert kept == [f"data.was-{ids[0]}"]
    assert (folder / kept[0] / "journal").read_text() == "damaged"


@pytest.mark.parametrize("step", ["decided", "moved", "unconfigured", "joined"])
def test_a_rejoin_goes_on_from_wherever_it_stopped(
    raftos: Raftos, cluster: list[str], agreement: MemoryCluster, tmp_path: Path, step: str
) -> None:
    """An ordinary start finishes it: one old id removed, one new one let in, the data kept once."""
    folder = tmp_path / "mine"
    old = prepared(raftos, cluster, folder)
    home = Home(folder)
    remove(old.member_id)
    plan = home.begin("n4", "voter", replaces=old.member_id)
    steps: dict[str, Callable[[], object]] = {
        "decided": lambda: None,
        "moved": lambda: home.data.rename(folder / f"data.was-{old.member_id}"),
        "unconfigured": home.config_file.unlink,
        "joined": lambda: finished(home),
    }
    for each, act in steps.items():
        act()
        if each == step:
            break
    done = raftos("start", "--data-dir", str(folder), "--prepare")
    assert done.exit_code == 0, done.stderr
    assert joined(folder).member_id == plan.id
    assert agreement.configuration.removed == (old.member_id,)
    assert len(agreement.configuration.peers) == 4
    assert (folder / f"data.was-{old.member_id}" / "journal").read_text() == "damaged"
    assert home.plan() is None
    assert home.data.exists() is (step == "joined")


def remove(member_id: str) -> None:
    with Client() as client:
        client.members.remove(member_id)


def finished(home: Home) -> None:
    """It has joined, and stops before it forgets what it had decided."""
    with Client() as client:
        home.finish(client, SECRET.hex())
    home.data.mkdir()


@pytest.mark.parametrize("used", [True, False])
def test_a_folder_may_be_renamed(raftos: Raftos, cluster: list[str], tmp_path: Path, used: bool) -> None:
    """Its configuration names the new place from then on, and that is said once; it may never have run."""
    folder, renamed = tmp_path / "mine", tmp_path / "renamed"
    before = prepared(raftos, cluster, folder)
    if not used:
        shutil.rmtree(folder / "data")
    folder.rename(renamed)
    start = ("start", "--data-dir", str(renamed), "--prepare")
    done = raftos(*start)
    assert (done.exit_code, f"moved here from {folder}" in done.stderr) == (0, True)
    assert joined(renamed) == msgspec.structs.replace(
        before, data_dir=str(renamed / "data"), secret_file=str(renamed / "secret")
    )
    done = raftos(*start)
    assert (done.exit_code, "moved" in done.stderr) == (0, False)


def test_a_renamed_folder_without_its_secret_is_refused(
    raftos: Raftos, cluster: list[str], tmp_path: Path
) -> None:
    """It says that it was moved, rather than begin with less than there was."""
    folder, renamed = tmp_path / "mine", tmp_path / "renamed"
    before = prepared(raftos, cluster, folder)
    folder.rename(renamed)
    (renamed / "secret").unlink()
    done = raftos("start", "--data-dir", str(renamed), "--prepare")
    assert (done.exit_code, "moved" in done.stderr, before.secret_file in done.stderr) == (2, True, True)
    assert joined(renamed) == before


def test_a_copy_of_a_folder_is_no_second_member(raftos: Raftos, cluster: list[str], tmp_path: Path) -> None:
    """As long as the first is there, with which it would share an id and no memory."""
    folder, copy = tmp_path / "mine", tmp_path / "copy"
    before = prepared(raftos, cluster, folder)
    shutil.copytree(folder, copy)
    done = raftos("start", "--data-dir", str(copy), "--prepare")
    assert (done.exit_code, f"--data-dir {folder}" in done.stderr) == (Conflict.exit_code, True)
    assert joined(copy) == before
    assert raftos("start", "--data-dir", str(folder), "--prepare").exit_code == 0


def test_what_lies_elsewhere_on_purpose_stays_there(
    raftos: Raftos, cluster: list[str], tmp_path: Path
) -> None:
    """Data on another disk: also before there is any; but older data here does not take its place."""
    folder, disk = tmp_path / "mine", tmp_path / "disk"
    prepared(raftos, cluster, folder)
    start = ("start", "--data-dir", str(folder), "--prepare")
    shutil.move(folder / "data", disk / "data")
    shutil.move(folder / "secret", disk / "secret")
    before = changed(folder, data_dir=str(disk / "data"), secret_file=str(disk / "secret"))
    assert raftos(*start).exit_code == 0
    shutil.rmtree(disk / "data")
    assert raftos(*start).exit_code == 0
    (folder / "data").mkdir()
    done = raftos(*start)
    assert (done.exit_code, str(disk / "data") in done.stderr) == (2, True)
    assert joined(folder) == before


def test_a_folder_may_be_reached_by_its_old_name(raftos: Raftos, cluster: list[str], tmp_path: Path) -> None:
    """A link in the old place leads to the same files: nothing has to change."""
    folder, renamed = tmp_path / "mine", tmp_path / "renamed"
    before = prepared(raftos, cluster, folder)
    folder.rename(renamed)
    folder.symlink_to(renamed)
    for name in (folder, renamed):
        assert raftos("start", "--data-dir", str(name), "--prepare").exit_code == 0
    assert joined(renamed) == before


@contextlib.contextmanager
def daemon_of(folder: Path) -> Iterator[None]:
    """What a running daemon is to others: a process that holds a lock on the data."""
    program = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), 2); print(1); input()"
    with subprocess.Popen(
        [sys.executable, "-uc", program, str(folder / "data")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield
        holder.kill()


def test_a_running_daemon_is_not_robbed_of_its_data(
    raftos: Raftos, cluster: list[str], tmp_path: Path
) -> None:
    """It holds a lock on its data; nothing is decided, let alone moved."""
    folder = tmp_path / "mine"
    prepared(raftos, cluster, folder)
    with daemon_of(folder):
        done = raftos("start", "--rejoin", "--data-dir", str(folder), "--prepare")
    assert done.exit_code == Conflict.exit_code
    assert "stop it" in done.stderr
    assert Home(folder).plan() is None


def test_only_one_start_at_a_time_works_on_a_folder(
    cluster: list[str], agreement: MemoryCluster, home: Path, tmp_path: Path
) -> None:
    """Of several at once each has joined the one member, or is told of another; none stumbles."""
    folder = tmp_path / "mine"
    start = ("start", "--join", cluster[0], "--name", "n4", "--data-dir", str(folder), "--prepare")
    at_once = [
        subprocess.Popen([*RAFTOS, *start], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = [(process.communicate()[1], process.returncode) for process in at_once]
    for sentence, code in said:
        assert code == 0 or (code, "another `raftos start`" in sentence) == (Conflict.exit_code, True), said
    assert 0 in {code for _, code in said}
    peers = {peer.id for peer in agreement.configuration.peers}
    assert peers == {joined(folder).member_id, "n1", "n2", "n3"}


def test_a_start_is_kept_out_while_another_is_at_work(
    raftos: Raftos, cluster: list[str], tmp_path: Path
) -> None:
    """Whatever it is asked to do; it changes nothing, and works once the other has ended."""
    folder = tmp_path / "mine"
    start = ("start", "--data-dir", str(folder), "--prepare")
    with Home(folder).exclusively():
        for more in ((), ("--rejoin",), ("--join", cluster[0], "--name", "n4")):
            done = raftos(*start, *more)
            assert done.exit_code == Conflict.exit_code
            assert str(folder) in done.stderr
        assert list(folder.iterdir()) == []
    assert raftos(*start, "--join", cluster[0], "--name", "n4").exit_code == 0


def test_what_cannot_be_started_says_what_is_missing(
    raftos: Raftos, cluster: list[str], home: Path, tmp_path: Path
) -> None:
    """A folder without a member, data without a configuration, a damaged plan, a name that is taken."""
    folder = tmp_path / "mine"
    start = ("start", "--data-dir", str(folder), "--prepare")
    assert "--join" in raftos(*start).stderr
    assert not folder.exists()
    assert raftos(*start, "--rejoin").exit_code == 2
    assert raftos(*start, "--purge").exit_code == 2
    folder.mkdir(exist_ok=True)
    (folder / "joining.json").write_text("{")
    assert "joining.json" in raftos(*start).stderr
    (folder / "joining.json").unlink()
    (folder / "data" / "journal").mkdir(parents=True)
    with pytest.raises(InvalidInput, match="holds data"):
        Home(folder).begin("n4", "voter")


def test_a_join_that_is_refused_leaves_nothing_to_go_on_with(
    raftos: Raftos, cluster: list[str], tmp_path: Path
) -> None:
    """A name that is taken: the next attempt may choose another."""
    folder = tmp_path / "mine"
    start = ("start", "--data-dir", str(folder), "--prepare", "--join", cluster[0])
    taken = raftos(*start, "--name", "n1")
    assert (taken.exit_code, "n1" in taken.stderr) == (Conflict.exit_code, True)
    assert Home(folder).plan() is None
    assert raftos(*start, "--name", "n4").exit_code == 0
    assert joined(folder).name == "n4"


def test_a_plan_for_one_name_is_not_carried_out_under_another(
    raftos: Raftos, cluster: list[str], agreement: MemoryCluster, tmp_path: Path
) -> None:
    """Refused before anybody is asked."""
    home = Home(tmp_path / "mine")
    home.begin("n4", "voter")
    done = raftos("start", "--join", cluster[0], "--data-dir", str(home.folder), "--name", "n5", "--prepare")
    assert (done.exit_code, "n4" in done.stderr) == (2, True)
    assert len(agreement.configuration.peers) == 3


def test_a_rejoin_that_is_refused_changes_nothing(
    raftos: Raftos, cluster: list[str], agreement: MemoryCluster, tmp_path: Path
) -> None:
    """Without a majority nobody is removed: the member is what it was, and starts as it did."""
    folder = tmp_path / "mine"
    before = prepared(raftos, cluster, folder)
    for name in ("n1", "n2", "n3"):
        agreement.cut(name)
    done = raftos("start", "--rejoin", "--data-dir", str(folder), "--prepare", "--timeout", "1")
    assert done.exit_code == NoQuorum.exit_code
    assert Home(folder).plan() is None
    assert (folder / "data" / "journal").read_text() == "damaged"
    assert raftos("start", "--data-dir", str(folder), "--prepare").exit_code == 0
    assert joined(folder) == before


def test_without_a_credential_nobody_is_asked(raftos: Raftos, home: Path, tmp_path: Path) -> None:
    """The sentence says where one would come from."""
    done = raftos("start", "--join", "http://127.0.0.1:9", "--data-dir", str(tmp_path / "mine"), "--prepare")
    assert done.exit_code == 2
    assert "--context" in done.stderr


def test_a_plan_is_found_again_as_it_was_written(tmp_path: Path) -> None:
    """Readable by its user alone."""
    home = Home(tmp_path / "mine")
    plan = home.begin("n4", "learner", replaces="abc", purge=True)
    assert (
        home.plan()
        == plan
        == msgspec.json.decode((home.folder / "joining.json").read_bytes(), type=type(plan))
    )
    assert (home.folder / "joining.json").stat().st_mode & 0o777 == 0o600
