"""A gate in the environment of Flower, with limits that a test can reach: KIT, then the limits as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from securefl_carriers.flower.gate import gate
from securefl_carriers.flower.kit import ServerKit
from securefl_carriers.flower.strangers import Limits

if __name__ == "__main__":
    gate(ServerKit.load(Path(sys.argv[1])), Limits(**json.loads(sys.argv[2]))).run()
