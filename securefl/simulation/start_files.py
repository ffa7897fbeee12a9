"""Hand the coordinator of a simulation its start file: it reads what a live one is given, and never the model."""

from __future__ import annotations

from securefl import files
from securefl.planning import start_file
from securefl.simulation.layout import SiteLayout
from securefl.terms.parties import COORDINATOR
from securefl.terms.start import Start

FOLDER = "start"  # of the coordinator's home: its start files, each under its federation's name and its own digest


def handed_over(places: SiteLayout, start: Start) -> Start:
    """Write the start file into the coordinator's home, and give what it reads there.

    Raises:
        OperatorFault: it cannot be written, or is of another federation.
    """
    folder = places.of(COORDINATOR) / FOLDER
    files.folder(folder)
    path = folder / f"{places.loaded.file.name}-{start_file.digest(start).hex()[:12]}.start"
    start_file.write(path, start)
    file = places.loaded.file
    return start_file.checked(path, file.model, file, places.loaded.path)
