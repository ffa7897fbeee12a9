"""The walks name functions that exist, go the way that the code goes, and leave out no hop back."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from securefl.home.export import export_all
from securefl.runtime.inprocess import InProcess
from securefl.simulation import parties
from securefl.site.build import Environment
from securefl.terms import MemberId, Scheme
from securefl.terms.parties import CUSTODIAN
from tests.site.test_build import driven
from tests.support import nested
from tests.support.hops import PACKAGE, Hops, goes_back, level_of, room_of
from tests.support.parties import Federation
from tests.support.sites import NOW, Introduced, stream
from tests.support.small import MEMBERS, Small

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "walks.md").read_text()
PLACE = re.compile(r"`([a-z_/]+\.py):([A-Za-z_.]+)`")
HOP = re.compile(r"(?=`([a-z_/]+\.py:[A-Za-z_.]+)` → `([a-z_/]+\.py:[A-Za-z_.]+)`)")
CLEAR = (Scheme.CLEAR, Scheme.CLEAR)
BACK, WALKS = "↩", ("A record", "A limit", "An update", "A policy", "A parent's round")
ROW = re.compile(r"^\| `([a-z_]+)(?:/|\.py)` \| `([a-z_]+)(?:/|\.py)` \| `([a-z_/]+\.py:[A-Za-z_.]+)` \|", re.MULTILINE)


@cache
def functions(file: str) -> dict[str, ast.AST]:
    """The functions and classes of a file of the package, by name, with those inside them."""
    found: dict[str, ast.AST] = {}

    def look(node: ast.AST, above: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                found[above + child.name] = child
                look(child, f"{above}{child.name}.")
            else:
                look(child, above)

    look(ast.parse(Path(PACKAGE, file).read_text()), "")
    return found


@cache
def others(file: str) -> dict[str, str]:
    """What a file calls by another name than its own."""
    nodes = ast.walk(ast.parse(Path(PACKAGE, file).read_text()))
    imported = [each for node in nodes if isinstance(node, ast.ImportFrom) for each in node.names]
    return {each.asname: each.name for each in imported if each.asname}


def named_in(place: str) -> set[str]:
    """All names that a function uses."""
    file, name = place.split(":")
    nodes = list(ast.walk(functions(file)[name]))
    used = {each.id for each in nodes if isinstance(each, ast.Name)}
    return {others(file).get(each, each) for each in used} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}


def walk(name: str) -> list[str]:
    """The lines of one walk."""
    section = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if re.match(r"\d+\. ", line)]


def wrong(line: str) -> list[str]:
    """What a line says of its hops that the code does not."""
    hops, found = HOP.findall(line), []
    if (BACK in line) != any(goes_back(room_of(one), room_of(other)) for one, other in hops):
        found.append("a hop back that is not marked, or a mark without one")
    if BACK in line and " by `" not in line:
        found.append("a hop back without its port")
    if BACK not in line:
        found += [f"{a} does not name {b}" for a, b in hops if b.split(":")[1].split(".")[-1] not in named_in(a)]
    return found


def test_every_function_that_the_page_names_exists() -> None:
    places = PLACE.findall(PAGE)
    assert len(places) > 100
    missing = [f"{file}:{name}" for file, name in places if name not in functions(file)]
    assert not missing


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_goes_as_the_code_goes(name: str) -> None:
    lines = walk(name)
    assert 8 <= len(lines) <= 15
    assert not {line: found for line in lines if (found := wrong(line))}


def test_a_line_that_says_something_else_is_found() -> None:
    line = "1. `site/agent.py:MemberAgent._move` → `home/home.py:Home.commit`."
    assert not wrong(line)
    assert wrong(line.replace("Home.commit", "Home.own"))
    assert wrong(f"{BACK} {line}")
    back = "`protocol/member.py:_enveloped` → `home/home.py:Home.head`"
    assert wrong(back)
    assert wrong(f"{BACK} {back}")
    assert not wrong(f"{BACK} {back} by `protocol/member_state.py:Ports`")


def test_a_call_up_is_a_hop_back_and_a_call_down_is_none() -> None:
    assert goes_back("training", "site")
    assert goes_back("training", "strategy")
    assert not goes_back("site", "training")
    assert not goes_back("site", "site")
    assert set(level_of()) >= {
        room_of(path.relative_to(PACKAGE).as_posix()) for path in Path(PACKAGE).rglob("*.py")
    } - {"__init__"}


def test_no_federation_hops_back_by_another_port_than_the_page_says(small: Small, tmp_path: Path) -> None:
    world = Introduced(small, tmp_path / "live", small.file("walked.yaml", training__rounds=1))
    shared = parties.load_model(world.places.loaded)
    with Hops() as hops:
        agents = {
            MemberId(name): world.agent(name, Environment(stream(name), lambda: NOW, model=shared)) for name in MEMBERS
        }
        ended = driven(world, InProcess(agents), shared.start)
        Federation(tmp_path / "keys", Scheme.CKKS).agent(CUSTODIAN)  # whose key is made and kept
        export_all([each.home for each in agents.values()], tmp_path)
        tree = nested.World(
            tmp_path / "tree", {node: dict.fromkeys(f"{node}{i}" for i in range(3)) for node in "ab"}, CLEAR, rounds=1
        )
        above = tree.play(np.zeros(nested.LAYOUT.entries))
    assert (ended.outcome, above.outcome) == ("finished", "finished")
    rows = {(caller, called) for caller, called, _ in ROW.findall(PAGE)}
    assert hops.back.keys() == rows, {pair: hops.back.get(pair) for pair in hops.back.keys() ^ rows}
