"""``python -m securefl``."""

from securefl.cli import main

main()
