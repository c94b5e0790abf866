"""The shape of the source is a claim, and it is tested like one.

Imports point only downwards, what has to be deterministic touches no clock, PySyncObj stays behind one
file, and functions and files stay short. Everything is read from the syntax trees; nothing is imported.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {"raftos": ROOT / "raftos", "raftos_cli": ROOT / "cli" / "raftos_cli"}
DOMAINS = ROOT / "raftos" / "state" / "domains"
ENGINE = ROOT / "raftos" / "consensus" / "engine.py"

LONGEST_FUNCTION_LINES = 70
LONGEST_FILE_LINES = 600

# What each part may import. The order is the order data flows, from the user to the disk.
MAY_IMPORT = {
    "cli": {
        "package",
        "client",
        "config",
        "durable",
        "levels",
        "errors",
        "state.command",
        "state.domain",
        "state.domains",
    },
    "node": {
        "agent",
        "client",
        "api",
        "control",
        "membership",
        "member",
        "trust",
        "levels",
        "beacons",
        "consensus",
        "state",
        "config",
        "durable",
        "errors",
        "package",
    },
    "package": {"client", "errors"},
    "agent": {"client", "state", "config", "errors"},
    "client": {
        "levels",
        "state.command",
        "state.domain",
        "state.domains",
        "state.limits",
        "config",
        "durable",
        "errors",
    },
    "api": {
        "membership",
        "member",
        "alarms",
        "reports",
        "levels",
        "beacons",
        "consensus",
        "state",
        "config",
        "errors",
    },
    "control": {"state", "levels", "config", "errors"},
    "membership": {"member", "levels", "consensus", "state", "config", "errors"},
    "member": {
        "alarms",
        "beacons",
        "gathering",
        "overview",
        "reports",
        "trust",
        "consensus",
        "state",
        "levels",
        "config",
        "errors",
    },
    "overview": {"alarms", "reports", "consensus", "state", "config", "errors"},
    "alarms": {"reports", "state", "config", "errors"},
    "reports": {"consensus.base", "levels"},
    "gathering": {"errors"},
    "trust": {"durable", "errors"},
    "beacons": {"consensus.base", "state.limits", "errors"},
    "consensus": {"state", "levels", "config", "durable", "errors"},
    "state": {"levels", "config", "durable", "errors"},
    "config": {"errors"},
    "levels": set(),
    "durable": set(),
    "errors": set(),
}

# A domain that has outgrown one file is a folder of these, in this order.
DOMAIN_FILES = (
    "schema", "limits", "commands", "answers", "validate", "apply", "queries", "checks", "domain",
)  # fmt: skip

# State is a function of the log. Each exception stands here with its reason.
NOT_DETERMINISTIC = {
    "asyncio", "aiohttp", "datetime", "http", "psutil", "random", "secrets", "select", "socket",
    "subprocess", "tempfile", "time", "urllib",
}  # fmt: skip
NOT_DETERMINISTIC_CALLS = {
    "hash", "id", "os.environ", "os.getenv", "os.getpid", "os.urandom", "uuid.uuid1", "uuid.uuid4",
}  # fmt: skip
STATE_EXCEPTIONS = {
    ("command.py", "os.urandom"): "a client or an edge mints a request id before the command enters the log",
}

# The replica decides; it neither waits nor touches the world. Its randomness is a generator handed to it.
PURE_CONSENSUS = ("barriers", "core", "elections", "engine", "guard", "messages", "proposals", "replica")
PURE_EXCEPTIONS = {"random.Random"}
IMPURE = NOT_DETERMINISTIC | {"os", "threading", "concurrent", "pathlib", "sqlite3", "uvloop"}


def source_files() -> list[Path]:
    return sorted(file for folder in SOURCES.values() for file in folder.rglob("*.py"))


def all_files() -> list[Path]:
    return source_files() + sorted(
        file for folder in ("tests", "bench", "docs") for file in (ROOT / folder).rglob("*.py")
    )


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def short(file: Path) -> str:
    return str(file.relative_to(ROOT))


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Every imported module with its line; `from a import b` counts as `a` and as `a.b`."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{short(file)}:{node.lineno} imports relatively; write the full name"
            if node.module != "raftos":
                yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)


def taken_names(file: Path) -> Iterator[tuple[int, str]]:
    """What imports bring in, as precisely as they say: `from a import b` counts as `a.b` only."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)


def part_of(module: str) -> str | None:
    """The part of raftos a module belongs to; None for a module from outside."""
    names = module.split(".")
    if names[0] == "raftos_cli":
        return "cli"
    if names[0] != "raftos":
        return None
    if len(names) == 1:
        return "package"
    if names[1] in {"node", "__main__"}:
        return "node"
    return names[1] if names[1] in MAY_IMPORT else "package"


def part_of_file(file: Path) -> str:
    if file.is_relative_to(SOURCES["raftos_cli"]):
        return "cli"
    relative = file.relative_to(SOURCES["raftos"])
    part = part_of(f"raftos.{relative.parts[0].removesuffix('.py')}")
    assert part is not None
    return part


def is_allowed(importer: str, module: str) -> bool:
    part = part_of(module)
    if part is None or part == importer:
        return True
    inner = ".".join(module.split(".")[1:3])
    return part in MAY_IMPORT[importer] or any(
        inner == allowed or inner.startswith(f"{allowed}.") or allowed.startswith(f"{inner}.")
        for allowed in MAY_IMPORT[importer]
    )


def test_imports_point_only_downwards() -> None:
    """No part imports one above it, and siblings do not know each other."""
    wrong = [
        f"{short(file)}:{line} ({part_of_file(file)}) imports {module}"
        for file in source_files()
        for line, module in imports(file)
        if not is_allowed(part_of_file(file), module)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("importer", "module", "allowed"),
    [
        ("state", "raftos.consensus.base", False),
        ("client", "raftos.api.app", False),
        ("api", "raftos.client", False),
        ("control", "raftos.member", False),
        ("cli", "raftos.state.machine", False),
        ("cli", "raftos.state.command", True),
        ("cli", "raftos.state.domains.kv", True),
        ("consensus", "raftos.state.machine", True),
        ("state", "sqlite3", True),
    ],
)
def test_the_import_rule_tells_up_from_down(importer: str, module: str, allowed: bool) -> None:
    """The rule itself refuses and allows what the layout says."""
    assert is_allowed(importer, module) is allowed


def test_domains_do_not_know_each_other() -> None:
    """What concerns several of them is a planner's; a domain that is a folder counts as one."""
    wrong = [
        f"{short(file)}:{line} imports {module}"
        for file in sorted(DOMAINS.rglob("*.py"))
        if file != DOMAINS / "__init__.py"
        for line, module in imports(file)
        if module.split(".")[:3] == ["raftos", "state", "domains"]
        and module.split(".")[3:4] != [file.relative_to(DOMAINS).parts[0].removesuffix(".py")]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_files_of_a_domain_stand_in_one_order() -> None:
    """Each imports only from those above it, and whoever knows one folder knows the next."""
    wrong = []
    for file in sorted(DOMAINS.glob("*/*.py")):
        if file.name == "__init__.py":
            continue
        assert file.stem in DOMAIN_FILES, f"give {short(file)} its place in DOMAIN_FILES"
        above = DOMAIN_FILES[: DOMAIN_FILES.index(file.stem)]
        folder = f"raftos.state.domains.{file.parent.name}"
        wrong += [
            f"{short(file)}:{line} imports {module}"
            for line, module in imports(file)
            if f"{module}.".startswith(f"{folder}.")
            and not module.startswith(tuple(f"{folder}.{name}" for name in above))
        ]
    assert not wrong, "\n".join(wrong)


def test_every_file_belongs_to_a_part() -> None:
    """A new package has to take its place in the layout before it is used."""
    known = {*MAY_IMPORT, "__main__", "__init__"}
    unknown = [
        short(file) for file in SOURCES["raftos"].rglob("*.py")
        if file.relative_to(SOURCES["raftos"]).parts[0].removesuffix(".py") not in known
    ]  # fmt: skip
    assert not unknown, f"add these to MAY_IMPORT: {unknown}"


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_functions_are_short() -> None:
    """No function outgrows one screen."""
    long = [
        f"{short(file)}:{node.lineno} {node.name} has {length_lines(node)} lines"
        for file in all_files()
        for node in functions(file)
        if length_lines(node) > LONGEST_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


def test_files_are_short() -> None:
    """A file that outgrows its welcome becomes a folder of the same names."""
    long = [
        f"{short(file)} has {lines} lines"
        for file in all_files()
        if (lines := len(file.read_text(encoding="utf-8").splitlines())) > LONGEST_FILE_LINES
    ]
    assert not long, "\n".join(long)


def test_every_source_file_opens_with_its_essay() -> None:
    """A file says first what it keeps and what its rules are; only an empty __init__ has nothing to say."""
    silent = [
        short(file)
        for file in source_files()
        if tree_of(file).body and not ast.get_docstring(tree_of(file))
    ]  # fmt: skip
    assert not silent, "\n".join(silent)


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def used_names(file: Path) -> Iterator[tuple[int, str]]:
    """Every call of a plain name and every dotted name, with its line."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.lineno, node.func.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, dotted(node)


def test_state_reads_no_clock_no_randomness_no_environment_and_no_network() -> None:
    """Two members that apply the same entries get the same state, whatever machine they run on."""
    wrong = []
    for file in sorted((ROOT / "raftos" / "state").rglob("*.py")):
        found = [(line, name) for line, name in imports(file) if name.split(".")[0] in NOT_DETERMINISTIC]
        found += [(line, name) for line, name in used_names(file) if name in NOT_DETERMINISTIC_CALLS]
        wrong += [
            f"{short(file)}:{line} {name}"
            for line, name in found
            if (file.name, name) not in STATE_EXCEPTIONS
        ]
    assert not wrong, "\n".join(wrong)


def test_a_request_id_is_the_only_randomness_in_state() -> None:
    """os.urandom appears once, inside new_request_id."""
    tree = tree_of(ROOT / "raftos" / "state" / "command.py")
    users = {
        function.name
        for function in functions(ROOT / "raftos" / "state" / "command.py")
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and dotted(node) == "os.urandom"
    }
    total = sum(isinstance(node, ast.Attribute) and dotted(node) == "os.urandom" for node in ast.walk(tree))
    assert users == {"new_request_id"}
    assert total == 1


@pytest.mark.parametrize("name", PURE_CONSENSUS)
def test_the_replica_neither_waits_nor_touches_the_world(name: str) -> None:
    """What decides consensus runs unchanged on the simulation's virtual time."""
    file = ROOT / "raftos" / "consensus" / f"{name}.py"
    impure = [
        f"{line} {taken}"
        for line, taken in taken_names(file)
        if taken.split(".")[0] in IMPURE and taken not in PURE_EXCEPTIONS
    ]
    waiting = [
        node.lineno
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
    ]
    assert not impure, impure
    assert not waiting, waiting


def test_only_the_engine_imports_pysyncobj() -> None:
    """PySyncObj could be replaced by changing one file."""
    users = {
        file for file in source_files() for _, name in imports(file) if name.split(".")[0] == "pysyncobj"
    }
    assert users == {ENGINE}


def test_nothing_imports_pickle() -> None:
    """Bytes from a disk or a network are never unpickled."""
    forbidden = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve"}
    users = [
        short(file) for file in all_files() for _, name in imports(file) if name.split(".")[0] in forbidden
    ]
    assert not users


def declared(constant: str) -> set[str]:
    """A tuple of names that engine.py declares, read without importing it."""
    for node in tree_of(ENGINE).body:
        if isinstance(node, ast.Assign) and dotted(node.targets[0]) == constant:
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"engine.py declares no {constant}")


def pysyncobj_source() -> str:
    spec = importlib.util.find_spec("pysyncobj.syncobj")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


@pytest.mark.parametrize("constant", ["PRIVATE_NAMES", "MODULE_NAMES"])
def test_every_seam_the_engine_declares_exists(constant: str) -> None:
    """An upgrade of PySyncObj that renames a seam fails here, not in production."""
    source = pysyncobj_source()
    missing = [
        name
        for name in sorted(declared(constant))
        if not re.search(rf"(?<!\w){re.escape(name.removeprefix('_SyncObj'))}\b", source)
    ]
    assert not missing


def test_the_engine_uses_no_private_name_it_does_not_declare() -> None:
    """The list of seams is complete, and has no entry without a use."""
    used = {
        node.attr
        for node in ast.walk(tree_of(ENGINE))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_SyncObj__")
    }
    by_text = re.findall(r"attr\([^)]*_SyncObj__", ENGINE.read_text(encoding="utf-8"))
    assert not by_text, "reach private names as attributes, so that this test sees them"
    assert used == {name for name in declared("PRIVATE_NAMES") if name.startswith("_SyncObj__")}
