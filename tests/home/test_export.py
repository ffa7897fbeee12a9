"""`securefl ledger export`: one party's ledger, as the run's own folder has it; from its document or its home."""

from __future__ import annotations

import json

import pytest

from securefl import key_files
from securefl.cli.main import main
from securefl.documents import site_file
from securefl.errors import OperatorFault
from securefl.home import export


def test_what_a_party_exports_is_what_the_run_left_of_it(finished, tmp_path, capsys) -> None:
    for name in ("coordinator", "north", "south", "west"):
        with pytest.raises(SystemExit):
            main(["ledger", "export", str(finished / "sites" / name), str(tmp_path / "out"), "--json"])
        told = json.loads(capsys.readouterr().out)
        found = (tmp_path / "out" / f"{name}.ledger").read_bytes()
        assert found == (finished / "run" / "ledger" / f"{name}.ledger").read_bytes()
        assert (told["owner"], told["ledger"]) == (name, str(tmp_path / "out" / f"{name}.ledger"))


def test_a_site_is_named_by_its_own_document(finished, tmp_path) -> None:
    (document,) = (finished / "sites" / "north" / "site").glob("*.yaml")
    assert site_file.load(document).file.name == "north"
    path, file = export.one(export.home_of(document), tmp_path)
    assert (path, file.owner) == (tmp_path / "north.ledger", "north")


@pytest.mark.parametrize("made", [False, True])
def test_a_home_in_which_nothing_happened_has_nothing_to_export(made: bool, tmp_path) -> None:
    if made:
        key_files.load_or_create(tmp_path / "identity.key")
    with pytest.raises(OperatorFault, match="nothing to export"):
        export.home_of(tmp_path)
    assert not (tmp_path / "ledger.db").exists()
