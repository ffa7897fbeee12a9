"""The start file: what a coordinator without the model is told, read back whole or refused with what would do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from securefl import wire
from securefl.documents import federation_file
from securefl.errors import OperatorFault
from securefl.planning import start_file
from securefl.terms import Adapter, AdapterKind, AdapterRule, Hash, Model, Task
from securefl.terms.layout import Layout, Tensor
from securefl.terms.start import Start
from tests.documents.test_live_federation import written
from tests.support.small import FEDERATION

TASK = Task("classification", ("bad", "good"))
ADAPTER = Adapter(("query", "value"), 4, 8, 1)
VALUES = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def starts(draw) -> Start:
    names = draw(st.lists(st.text("abcdef._", min_size=1, max_size=8), min_size=1, max_size=4, unique=True))
    tensors = tuple(Tensor(name, tuple(draw(st.lists(st.integers(1, 3), max_size=3)))) for name in sorted(names))
    rule = draw(st.sampled_from(AdapterRule))
    entries = sum(each.entries for each in tensors)
    state = np.array(draw(st.lists(VALUES, min_size=entries, max_size=entries)), "<f4").tobytes()
    digest = Hash(draw(st.binary(min_size=32, max_size=32)))
    return Start(Model("./model", digest), TASK, replace(ADAPTER, rule=rule), Layout(tensors, rule), state)


def a_start() -> Start:
    layout = Layout((Tensor("head.bias", (2,)), Tensor("head.weight", (2, 3))), AdapterRule.B_ONLY)
    state = np.arange(8, dtype="<f4").tobytes()
    return Start(Model("./model", Hash(bytes(32))), TASK, ADAPTER, layout, state)


@given(starts())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "x.start"
    start_file.write(path, start)
    read = start_file.read(path)
    assert read == start
    assert start_file.digest(read) == start_file.digest(start)
    assert path.stat().st_mode & 0o777 == 0o600


def raw(start: Start, **fields: object) -> bytes:
    """The encoding of a start that could not be made: its fields are put in afterwards."""
    made = object.__new__(Start)
    for name in ("model", "task", "adapter", "layout", "state"):
        object.__setattr__(made, name, fields.get(name, getattr(start, name)))
    return wire.encode(made)


def bad() -> dict[str, bytes]:
    start = a_start()
    whole, layout = wire.encode(start), start.layout
    twice = replace(layout, tensors=(layout.tensors[0], layout.tensors[0]))
    nothing = replace(layout, tensors=(Tensor("head.bias", (0,)), Tensor("head.weight", (2, 4))))
    return {
        "empty": b"",
        "cut short": whole[:-1],
        "with a tail": whole + b"\0",
        "another value": wire.encode(start.model),
        "a second encoding": whole.replace(b"\x82\x02\x03", b"\x82\x02\x18\x03"),
        "one value less": raw(start, state=start.state[:-4]),
        "part of a value less": raw(start, state=start.state[:-1]),
        "a name twice": raw(start, layout=twice, state=bytes(16)),
        "no tensors": raw(start, layout=replace(layout, tensors=()), state=b""),
        "a tensor without entries": raw(start, layout=nothing),
        "another rule": raw(start, layout=replace(layout, rule=AdapterRule.SVD)),
        "not a number": raw(start, state=np.array([np.nan] * 8, "<f4").tobytes()),
        "infinity": raw(start, state=np.array([*range(7), -np.inf], "<f4").tobytes()),
    }


@pytest.mark.parametrize("kind", bad())
def test_a_file_that_is_no_start_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.start"
    path.write_bytes(bad()[kind])
    with pytest.raises(OperatorFault, match=r"x\.start: .*securefl start make"):
        start_file.read(path)


def test_every_flipped_bit_is_another_start_or_none(tmp_path: Path) -> None:
    path, start = tmp_path / "x.start", a_start()
    whole = wire.encode(start)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            read = start_file.read(path)
        except OperatorFault:
            continue
        assert start_file.digest(read) != start_file.digest(start)


def test_a_file_that_is_not_there_says_who_makes_it(tmp_path: Path) -> None:
    with pytest.raises(OperatorFault, match=r"No such file.*securefl start make DOCUMENT FILE"):
        start_file.read(tmp_path / "x.start")


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("model", {"model": Model("./another", Hash(bytes(32)))}),
        ("task", {"task": replace(TASK, labels=("good", "bad"))}),
        ("adapter", {"adapter": replace(ADAPTER, alpha=9)}),
        ("adapter", {"adapter": replace(ADAPTER, kind=AdapterKind.RSLORA)}),
    ],
)
def test_a_start_of_another_federation_is_refused(what: str, changed: dict, tmp_path: Path) -> None:
    loaded = federation_file.load(written(tmp_path, start="x.start"))
    start_file.write(tmp_path / "x.start", a_start())
    assert start_file.of(loaded) == a_start()
    start_file.write(tmp_path / "x.start", replace(a_start(), **changed))
    with pytest.raises(OperatorFault, match=f"made for the {what} "):
        start_file.of(loaded)


def test_a_document_names_its_start_file_where_it_is_live_alone(tmp_path: Path) -> None:
    import yaml

    with pytest.raises(OperatorFault, match=r"live\.yaml: start: names no start file; write `start: FILE`"):
        start_file.of(federation_file.load(written(tmp_path)))
    path = tmp_path / "simulated.yaml"
    path.write_text(yaml.safe_dump(FEDERATION | {"start": "x.start"}))
    with pytest.raises(OperatorFault, match=r"simulated\.yaml:\d+: start: `start` is a live one's"):
        federation_file.load(path)
