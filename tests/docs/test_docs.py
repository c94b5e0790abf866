"""The documentation is complete and true: it names everything there is, and everything it shows runs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from docs import console, generate
from docs.markdown import ROOT, Block, blocks, links, pages, sections
from raftos.config import Config, Voter
from raftos.errors import BY_CODE
from raftos_cli.main import root

DOCS = ROOT / "docs"


@pytest.mark.parametrize("page", generate.PAGES)
def test_the_reference_is_what_the_program_says(page: str) -> None:
    """Every command, option, endpoint and field is documented; `python -m docs.generate` renews it."""
    assert (DOCS / page).read_text(encoding="utf-8") == generate.whole(page)


@pytest.mark.parametrize("page", generate.PAGES)
def test_nothing_is_described_twice(page: str) -> None:
    """Of two sections for one command, the older would say what is not true any more."""
    text = (DOCS / page).read_text(encoding="utf-8")
    titles = re.findall(r"^#{2,3} .+$", text, re.MULTILINE)
    assert [title for title in sorted(set(titles)) if titles.count(title) > 1] == []


COMMANDS = dict(generate.commands(root))


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_is_documented(path: str) -> None:
    """docs/cli.md has a section for each command, and it names each of its options."""
    section = sections(DOCS / "cli.md").get(path)
    assert section is not None, f"docs/cli.md has no section `{path}`"
    options = {
        option
        for parameter in COMMANDS[path].params
        if isinstance(parameter, click.Option) and not parameter.hidden
        for option in parameter.opts
    }
    missing = [option for option in options - generate.COMMON_OPTIONS if option not in section]
    assert not missing


def test_no_command_is_documented_that_does_not_exist() -> None:
    """A section of docs/cli.md that looks like a command is one."""
    titles = {title for title in sections(DOCS / "cli.md") if title.startswith("raftos ")}
    assert titles == set(COMMANDS)


@pytest.mark.parametrize("option", sorted(generate.COMMON_OPTIONS))
def test_every_common_option_is_documented_once(option: str) -> None:
    """What every command takes stands in one place."""
    assert f"`{option}`" in sections(DOCS / "cli.md")["Options of every command"]


def exit_codes() -> set[int]:
    return {kind.exit_code for kind in BY_CODE.values()}


@pytest.mark.parametrize("code", sorted(exit_codes()))
def test_every_exit_code_is_documented(code: int) -> None:
    """Scripts rely on them."""
    assert re.search(rf"^\| {code} \|", sections(DOCS / "cli.md")["Exit codes"], re.MULTILINE)


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_error_is_documented_with_its_status(code: str) -> None:
    """docs/api.md lists each stable code beside its HTTP status."""
    row = re.search(rf"^\| `{code}` \|.*$", sections(DOCS / "api.md")["Errors"], re.MULTILINE)
    assert row, f"`{code}` is missing"
    assert f"| {BY_CODE[code].http_status} |" in row[0]


@pytest.mark.parametrize("structure", [Config, Voter])
def test_every_setting_is_documented_with_its_default(structure: type[msgspec.Struct]) -> None:
    """docs/configuration.md has a row for each setting."""
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    for setting in msgspec.structs.fields(structure):
        row = re.search(rf"^\| `{setting.name}` \|.*$", page, re.MULTILINE)
        assert row, f"`{setting.name}` is missing"
        if setting.default is not msgspec.NODEFAULT:
            assert f"`{setting.default}`" in row[0]


def test_every_environment_variable_is_documented() -> None:
    """Whatever variable the source reads stands in docs/configuration.md."""
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    sources = [*(ROOT / "raftos").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]
    used = {
        name
        for file in sources
        for name in re.findall(r'"(RAFTOS_[A-Z_]+)"', file.read_text(encoding="utf-8"))
    }
    assert used
    assert not [name for name in sorted(used) if f"`{name}`" not in page]


ENDPOINTS = {endpoint: kind for endpoint, kind, _ in generate.endpoints()}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_command_and_query_of_the_domains_is_documented(endpoint: str) -> None:
    """docs/api.md has a section for each, and it names each of its fields."""
    section = sections(DOCS / "api.md").get(endpoint)
    assert section is not None, f"docs/api.md has no section `{endpoint}`"
    fields = [field.encode_name for field in msgspec.structs.fields(ENDPOINTS[endpoint])]
    assert not [name for name in fields if f"`{name}`" not in section]


def test_every_other_endpoint_is_documented() -> None:
    """The routes that api/app.py writes down itself have their sections too."""
    source = (ROOT / "raftos" / "api" / "app.py").read_text(encoding="utf-8")
    routes = re.findall(r'"(/[\w/]+)": \{"(GET|POST)"', source)
    assert routes
    documented = sections(DOCS / "api.md")
    assert not [route for route, method in routes if f"{method} {route}" not in documented]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    """A file that moved is found out here."""
    broken = [target for target in links(page) if not (page.parent / target.partition("#")[0]).exists()]
    assert not broken


@pytest.mark.parametrize("picture", sorted((DOCS / "images").iterdir()), ids=lambda picture: picture.name)
def test_pictures_are_small_and_load_nothing(picture: Path) -> None:
    """A page shows them at once, and without a network."""
    assert picture.stat().st_size <= 200_000
    if picture.suffix == ".svg":
        drawing = picture.read_text(encoding="utf-8")
        assert not re.search(r"url\(['\"]?http|href=|@import", drawing)


def test_every_decision_is_listed() -> None:
    """docs/decisions/README.md is the index of the folder."""
    index = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    written = {file.name for file in (DOCS / "decisions").glob("*.md")} - {"README.md"}
    assert not [name for name in sorted(written) if f"({name})" not in index]


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    """.ci/run takes its command out of the README, which has exactly one such line."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.endswith("/tox")]) == 1


def test_the_console_reader_sees_through_numbers_and_order_only() -> None:
    """Outputs that differ in a word differ; those that differ in a number or in order do not."""
    assert console.alike("n1  leader 4\nn2 follower 4\n") == console.alike("n1 follower 17\nn3 leader  17\n")
    assert console.alike("n1 leader") != console.alike("n1 follower")


@pytest.fixture
def home() -> Iterator[Path]:
    """A RAFTOS_HOME of its own; whatever runs in it ends with the test."""
    with console.temporary_home() as folder:
        yield folder


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", console.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_shows_of_a_terminal_is_real(page: Path, home: Path) -> None:
    """Each command of its console blocks succeeds and prints what stands there."""
    for played in console.play(page, home):
        said = f"{played.block}: $ {played.step.command}\n{played.output}"
        assert played.code == 0, said
        assert console.alike(played.output) == console.alike(played.step.shown), said


@pytest.mark.timeout(180)
def test_every_python_block_of_the_user_documentation_runs(home: Path) -> None:
    """The examples of the SDK do what they say on a real cluster."""
    examples: list[Block] = [
        block
        for page in [ROOT / "README.md", *DOCS.glob("*.md"), *DOCS.glob("howto/*.md")]
        for block in blocks(page, "python")
    ]
    assert examples
    code, output = console.run("raftos dev start --detach", home)
    assert code == 0, output
    for block in examples:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", block.text],
            env=console.environment(home), check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stderr}"


def test_the_domain_of_contributing_works() -> None:
    """The example of CONTRIBUTING.md is a whole domain: its file and its test, run together."""
    example = "\n".join(block.text for block in blocks(ROOT / "CONTRIBUTING.md", "python"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
