"""A member compares where training starts with what it computes itself, before anything is reserved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from securefl.audit.ledger_files import read_all
from securefl.planning import start_file
from securefl.protocol.messages import state_digest
from securefl.simulation import parties
from securefl.site.build import Environment
from securefl.terms import AdapterRule, Hash, MemberId, Refused, Reserved
from securefl.terms.layout import Layout, Tensor
from securefl.wire import layout_digest
from tests.site.test_build import driven, entries
from tests.support.sites import NOW, Introduced, Wire, stream
from tests.support.small import MEMBERS, Small


def moved(start):
    values = np.frombuffer(start.state, "<f4").copy()
    values[-1] += 1
    return replace(start, state=values.tobytes())


def renamed(start):
    first, *others = start.layout.tensors
    return replace(start, layout=Layout((Tensor(first.name + "x", first.shape), *others), start.layout.rule))


def reshaped(start):
    """The same number of entries: no count tells them apart."""
    *others, last = start.layout.tensors
    assert len(last.shape) == 2
    return replace(start, layout=Layout((*others, Tensor(last.name, last.shape[::-1])), start.layout.rule))


def of_another_model(start):
    return replace(start, model=replace(start.model, digest=Hash(bytes(32))))


def under_another_rule(start):
    adapter = replace(start.adapter, rule=AdapterRule.BOTH)
    return replace(start, adapter=adapter, layout=replace(start.layout, rule=AdapterRule.BOTH))


@pytest.mark.parametrize("wrong", [moved, renamed, reshaped, of_another_model, under_another_rule])
def test_a_member_reserves_nothing_for_a_start_that_it_does_not_compute(wrong, small: Small, tmp_path: Path) -> None:
    world = Introduced(small, tmp_path, small.file("start.yaml", training__rounds=1))
    shared = parties.load_model(world.places.loaded)
    agents = {
        MemberId(name): world.agent(name, Environment(stream(name), lambda: NOW, model=shared)) for name in MEMBERS
    }
    ended = driven(world, Wire(agents), wrong(shared.start))
    assert ended.outcome != "finished"
    for name in MEMBERS:
        mine = entries(world, name)
        assert not any(isinstance(each, Reserved) for each in mine)
        assert any(isinstance(each, Refused) for each in mine)


def test_the_coordinator_of_a_simulation_read_a_start_file_that_the_plans_name(finished: Path) -> None:
    (path,) = (finished / "sites" / "coordinator" / "start").iterdir()
    start = start_file.read(path)
    assert path.name == f"small-{start_file.digest(start).hex()[:12]}.start"
    plans = [each.plan for _, each in read_all(finished / "run")["north"].each(Reserved)]
    assert len(plans) == 2
    assert {each.start for each in plans} == {state_digest(start.state)}
    assert {each.layout for each in plans} == {layout_digest(start.layout)}
    assert plans[0].base == plans[0].start != plans[1].base
