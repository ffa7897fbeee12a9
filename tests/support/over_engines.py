"""The small federation over an engine: its parties' commands run in this process, whatever serves in one of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import pytest

from examples.flare.network import Federation, Network
from securefl.cli.main import main
from tests.support.small import FEDERATION, MEMBERS, Small, sign


class InThisProcess:
    """What ends by itself is run here."""

    capsys: pytest.CaptureFixture[str]

    def told(self, *argv: object) -> dict[str, Any]:
        self.capsys.readouterr()
        try:
            main([*map(str, argv), "--json"])
        except SystemExit as ended:
            assert not ended.code, self.capsys.readouterr()
        return json.loads(self.capsys.readouterr().out)


Kind = TypeVar("Kind", bound=Network)


def small_over(
    kind: type[Kind],
    small: Small,
    folder: Path,
    engine: Path,
    capsys: pytest.CaptureFixture[str],
    rounds: int = 3,
    protection: str = "masking",
) -> Kind:
    folder.mkdir(parents=True)
    policy = folder / "policy.yaml"
    policy.write_text((small.folder / "policy.yaml").read_text().replace("min_cohort: 3", "min_cohort: 2"))
    sign(policy)
    trained = {key: FEDERATION[key] for key in ("name", "purpose", "task", "adapter")}
    trained |= {"protection": protection, "training": {**FEDERATION["training"], "rounds": rounds}}
    members = {
        name: {"region": "here", "data": {"file": str(small.folder / f"{name}.csv"), "text": "text", "label": "label"}}
        for name in MEMBERS
    }
    model = ("./model", str(small.folder / "model"))
    of = Federation("small", policy, trained, model, members, custodian=protection == "masked-ckks")
    network = kind(of, folder / "network", engine)
    network.capsys = capsys
    return network
