"""`raftos dev add | remove | rejoin | recover`: members of a local cluster that come and go.

A new member is put on record before it asks to be let in, so that `raftos dev stop` finds whatever was
started; one whose joining was interrupted is finished by the next `add` (`joining.py` says how).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

import click

from raftos.errors import Conflict, InvalidInput, NotReady, RaftosError, Unavailable
from raftos_cli.asking import confirm, yes_option
from raftos_cli.base import Command, Invocation, pass_invocation
from raftos_cli.dev import MOST_MEMBERS, current, exclusively, number_argument, show, tell
from raftos_cli.joining import Home, Role, give_up

if TYPE_CHECKING:
    from raftos.client import Client
    from raftos_cli.devcluster import DevCluster, Member

JOIN_TIMEOUT_S = 30.0
POLL_S = 0.05
purge_option = click.option("--purge", is_flag=True, help="Delete its data as well.")


@click.command(
    "add",
    cls=Command,
    examples="""
        raftos dev add                 a member more, which votes
        raftos dev add --learner       one that only follows
    """,
)
@click.option("--learner", is_flag=True, help="Let it follow without a vote.")
@click.option("--agent", is_flag=True, help="For tasks; this version has none yet.")
@pass_invocation
def add(run: Invocation, learner: bool, agent: bool) -> None:
    """Add a member, and wait until it has caught up.

    It votes from then on, unless it is a learner; `kill`, `restart` and the others take its number.
    """
    if agent:
        raise InvalidInput("agents run tasks, and this version has no tasks yet; leave --agent out")
    with exclusively():
        cluster = current()
        refuse_stopped(cluster)
        with client_of(cluster, None, run.timeout_s) as client:
            member = _unfinished(cluster) or _begun(cluster, client, "learner" if learner else "voter")
        try:
            caught_up = bring_in(cluster, member, run.chosen_timeout_s or JOIN_TIMEOUT_S)
        finally:
            _forget_refused(cluster, member)
    show(run, cluster)
    run.output.say(_arrival(member, caught_up=caught_up))


@click.command(
    "remove",
    cls=Command,
    examples="""
        raftos dev remove 4
        raftos dev remove 4 --yes --purge
    """,
)
@number_argument
@yes_option
@click.option("--force", is_flag=True, help="Also where no other member could fail then.")
@purge_option
@pass_invocation
def remove(run: Invocation, number: int, yes: bool, force: bool, purge: bool) -> None:
    """Remove member N from the cluster for good, and end its process.

    A leader hands over first. Its data is kept beside the others, unless --purge.
    """
    member = current().member(number)
    confirm(f"Remove {member.name} from the cluster for good?", yes=yes)
    with exclusively():
        cluster = current()
        member = cluster.member(number)
        if not cluster.is_removed(member) or cluster.is_joining(member):
            refuse_stopped(cluster)
            with client_of(cluster, member, run.timeout_s) as client:
                _let_go(cluster, client, member, force=force)
        cluster.stop([member])
        cluster.leave(member, purge=purge)
        _refresh(cluster)
    show(run, cluster)
    run.output.say(f"{member.name} is removed; its data is {'deleted' if purge else 'kept'}.")


def _let_go(cluster: DevCluster, client: Client, member: Member, *, force: bool) -> None:
    """Have it removed, and also whom it was about to become; the cluster may never have heard of either."""
    plan = home_of(cluster, member.name).plan()
    if plan is None:
        client.members.remove(member.id, force=force)
        return
    for member_id in dict.fromkeys((member.id, plan.id)):
        give_up(client, member_id)


@click.command(
    "rejoin",
    cls=Command,
    examples="""
        raftos dev rejoin 1            its data is lost or damaged
        raftos dev rejoin 1 --purge
    """,
)
@number_argument
@click.option("--learner", is_flag=True, help="Let it follow without a vote.")
@yes_option
@purge_option
@pass_invocation
def rejoin(run: Invocation, number: int, learner: bool, yes: bool, purge: bool) -> None:
    """Let member N join anew, under a new id and with empty data.

    For one whose data is lost or damaged, or that was removed. Its name stays; its old data is moved aside.
    Where the others do not agree, nothing is changed.
    """
    cluster = current()
    if cluster.process(member := cluster.member(number)) is not None:
        confirm(f"{member.name} runs; give its data up?", yes=yes)
    with exclusively():
        cluster = current()
        member = cluster.member(number)
        refuse_stopped(cluster, but=member)
        home = home_of(cluster, member.name)
        if home.plan() is None:
            with client_of(cluster, member, run.timeout_s) as client:
                give_up(client, member.id)
            cluster.stop([member])
            home.begin(member.name, "learner" if learner else "voter", replaces=member.id, purge=purge)
        cluster.stop([member])
        caught_up = bring_in(cluster, member, run.chosen_timeout_s or JOIN_TIMEOUT_S)
    show(run, cluster)
    run.output.say(_arrival(member, caught_up=caught_up))


@click.command(
    "recover",
    cls=Command,
    examples="""
        raftos dev recover 1           the others are lost for good
        raftos dev recover 1 --yes dev
    """,
)
@number_argument
@click.option("--yes", "answer", metavar="CLUSTER", help="The cluster's name, dev: do not ask for it.")
@pass_invocation
def recover(run: Invocation, number: int, answer: str | None) -> None:
    """Go on with member N alone, when a majority is lost for good.

    What it had not received is gone, and the others are removed: `raftos dev rejoin` brings them back.
    """
    from raftos_cli import devstart
    from raftos_cli.recover import recovered

    cluster = current()
    _refuse_majority(cluster, cluster.member(number))
    name = _named(cluster, cluster.member(number), answer)
    with exclusively():
        cluster = current()
        member = cluster.member(number)
        _refuse_majority(cluster, member)
        with _stopped(cluster, member), _alone(cluster, member):
            recovered(cluster.config_file(member), name)
        _refresh(cluster)
        cluster.spawn(member)
        devstart.wait_until_back(cluster, member, run.timeout_s)
    tell(run, cluster, member, f"{member.name} goes on alone; `raftos dev rejoin N` brings the others back.")


def _named(cluster: DevCluster, member: Member, answer: str | None) -> str:
    """The cluster's name, given or typed, before anything is held or stopped for it.

    Raises InvalidInput for another name, Abort.
    """
    from raftos_cli.recover import refuse_unasked

    refuse_unasked(answer)
    name = cluster.record.cluster
    if answer is None:
        click.echo(
            f"{member.name} becomes the only voter. What the others acknowledged and it has not received is "
            "lost for good,\nand they are removed.",
            err=True,
        )
        answer = str(click.prompt(f"Type the cluster's name, {name}, to go on", err=True))
    if answer.strip() != name:
        raise InvalidInput(f"{answer!r} is not the name of this cluster, {name!r}; nothing was changed")
    return name


@contextmanager
def _stopped(cluster: DevCluster, member: Member) -> Iterator[None]:
    """Its daemon is stopped meanwhile; where that leads to nothing, it runs again."""
    ran = cluster.process(member) is not None
    cluster.stop([member])
    try:
        yield
    except BaseException:  # Also where the person at the terminal thought better of it.
        if ran:
            cluster.spawn(member)
        raise


@contextmanager
def _alone(cluster: DevCluster, member: Member) -> Iterator[None]:
    """Put on record that the others are removed, before that is so: in between nobody may start them.

    They would be a majority that does not know. Where it is refused the record is as it was; whatever else
    ends this, nobody knows whether it was done, and it may be done again.
    """
    before = [other.removed for other in cluster.members]
    for other in cluster.members:
        other.removed = other is not member
    cluster.save()
    try:
        yield
    except RaftosError:
        for other, removed in zip(cluster.members, before, strict=True):
            other.removed = removed
        cluster.save()
        raise


def _refuse_majority(cluster: DevCluster, member: Member) -> None:
    """Two that believe in different members would both go on: whoever else runs has to end first."""
    running = [other.name for other in cluster.living() if other is not member]
    if running:
        run, them = ("runs", "it") if len(running) == 1 else ("run", "them")
        raise Conflict(
            f"{' and '.join(running)} still {run}; if a majority can run nothing is lost, and if not, "
            f"end {them} first with `raftos dev kill N`"
        )
    if cluster.is_removed(member):
        raise Conflict(f"{member.name} was removed from the cluster; recover one that belongs to it")


# --- from a decision to a member ---------------------------------------------------------------


def home_of(cluster: DevCluster, name: str) -> Home:
    return Home(cluster.directory / name, cluster.secret_file)


def _unfinished(cluster: DevCluster) -> Member | None:
    return next((member for member in cluster.members if cluster.is_joining(member)), None)


def _forget_refused(cluster: DevCluster, member: Member) -> None:
    """Take a member off the record again that the cluster did not let in."""
    home = home_of(cluster, member.name)
    if home.plan() is None and not home.config_file.exists():
        cluster.leave(member, purge=True)


def _begun(cluster: DevCluster, client: Client, role: Role) -> Member:
    """A new member, on record. Raises Conflict where there are as many as a local cluster may have."""
    from raftos_cli.devcluster import Member

    if len(cluster.members) >= MOST_MEMBERS:
        raise Conflict(
            f"a local cluster has at most {MOST_MEMBERS} members; remove one with `raftos dev remove N`"
        )
    taken = {each.name for each in client.members.show().items}
    first = max(member.number for member in cluster.members) + 1
    name = next(name for number in count(first) if (name := f"n{number}") not in taken)
    home = home_of(cluster, name)
    plan = home.plan() or home.begin(name, role)
    member = Member(plan.id, name, plan.api_port, plan.peer_port, joined=True)
    cluster.enter(member)
    return member


def bring_in(cluster: DevCluster, member: Member, timeout_s: float) -> bool:
    """Join as planned, start the daemon, and wait; whether it has its role and has caught up in time.

    Raises RaftosError. Called again after any interruption, it goes on.
    """
    deadline = time.monotonic() + timeout_s
    home = home_of(cluster, member.name)
    plan = home.plan()
    assert plan is not None
    with client_of(cluster, member, timeout_s) as client:
        config = home.finish(client, cluster.secret())
        member.id, member.joined, member.removed, member.begun = config.member_id, True, False, False
        member.api_port = int(config.api_address.rpartition(":")[2])
        member.peer_port = int(config.peer_address.rpartition(":")[2])
        cluster.enter(member)
        home.settle()
        _refresh(cluster)
        if cluster.process(member) is None:
            cluster.spawn(member)
        return _arrived(cluster, client, member, plan.role, deadline)


def _arrived(cluster: DevCluster, client: Client, member: Member, role: Role, deadline: float) -> bool:
    from raftos_cli import devstart

    while not (arrived := _has_role(client, member, role) and devstart.has_caught_up(cluster, member)):
        devstart.refuse_ended(cluster, member)
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    cluster.note_begun()
    return arrived


def _has_role(client: Client, member: Member, role: Role) -> bool:
    try:
        return any(each.id == member.id and each.role == role for each in client.members.show().items)
    except Unavailable:
        return False


def _arrival(member: Member, *, caught_up: bool) -> str:
    said = "belongs to the cluster and has caught up" if caught_up else "runs, but has not caught up yet"
    return f"{member.name} {said}."


def client_of(cluster: DevCluster, member: Member | None, timeout_s: float) -> Client:
    """A client of the others, of which those that run come first; of itself too where none of them runs."""
    from raftos.client import Client
    from raftos_cli.devstart import CONTEXT

    others = [each for each in cluster.active if each is not member] or cluster.members
    running = [each for each in others if cluster.state(each) == "running"]
    if not running and member is not None and cluster.state(member) == "running":
        running = [member]
    listed = [*running, *(each for each in others if each not in running)]
    return Client([each.endpoint for each in listed], context=CONTEXT, timeout_s=timeout_s)


def refuse_stopped(cluster: DevCluster, *, but: Member | None = None) -> None:
    """Nobody agrees to anything while nobody runs. Raises NotReady."""
    if not any(member is not but for member in cluster.living()):
        raise NotReady(
            "no other member runs; `raftos dev start` starts the cluster, `raftos dev restart N` one"
        )


def _refresh(cluster: DevCluster) -> None:
    from raftos_cli.devstart import refresh_context

    refresh_context(cluster)
