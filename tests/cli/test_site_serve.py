"""`securefl site serve`: a whole federation whose sites are commands, each in a home of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from securefl.audit.verify import verify
from securefl.errors import OperatorFault
from securefl.runtime.sockets import Sockets
from securefl.simulation import federation
from securefl.site.serve import user_named
from tests.support.small import MEMBERS, Small

Served = dict[str, subprocess.Popen[str]]


def command(site: Path, *more: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "securefl", "site", "serve", str(site), "--json", *more]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def ended_after(served: Served) -> Iterator[Served]:
    try:
        yield served
    finally:
        for process in served.values():
            process.kill()
            process.communicate()


def test_sites_that_are_commands_train_are_told_to_end_and_their_ledgers_hold(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doors: dict[str, Path] = {}
    with ended_after({}) as served:

        def by_sockets(places, bench):
            for name, site in bench.rosters[places.route].documents.items():
                served[name] = command(site)
            for name, process in served.items():
                told = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
                assert (told["ok"], told["name"], told["pid"]) == (True, name, process.pid)
                doors[name] = Path(told["socket"])
            return bench.eyes.runtime(places, Sockets(doors))

        monkeypatch.setattr(federation, "runtime_of", by_sockets)
        file = small.file("served.yaml", training__rounds=1)
        result = small.run(tmp_path / "run", tmp_path / "sites", file=file)
        assert result.outcome == "finished", result.why
        assert set(served) == set(MEMBERS)
        for process in served.values():
            process.send_signal(signal.SIGTERM)
        for name, process in served.items():
            _, shown = process.communicate(timeout=60)
            assert process.returncode == 0, shown
            assert f"{name}: ended" in shown
            assert not doors[name].exists()
    assert verify(tmp_path / "run").ok, verify(tmp_path / "run").why


@pytest.mark.parametrize(
    ("written", "more", "told"),
    [
        ("securefl_site: 1\nname: custodian\n", (), "write whom this site trusts under `federations`"),
        (
            "securefl_site: 1\nname: custodian\n",
            ("--let-in", "nobody-of-this-name"),
            "no user is called nobody-of-this-name",
        ),
        ("securefl_site: 1\nname: custodian\n", ("--socket", "d" * 200), "a socket's path may have 107 bytes"),
    ],
)
def test_a_site_that_cannot_be_served_says_what_to_do(written: str, more, told: str, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(written)
    process = command(site, *more)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert told in err
    assert told in json.loads(out)["error"]["message"]


def test_a_user_has_a_name_or_a_number() -> None:
    assert user_named("root") == 0
    assert user_named("54321") == 54321
    assert user_named(str(os.geteuid())) == os.geteuid()
    with pytest.raises(OperatorFault, match="give a name or number that `id` knows"):
        user_named("²")
