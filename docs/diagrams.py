"""Write the diagrams of `architecture.md` from the code itself: the machines' tables, and what imports what.

python docs/diagrams.py            # write them
python docs/diagrams.py --check    # exit 1 if they are not what the code says
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from securefl.protocol import coordinator, custodian, member

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("architecture.md")
QUIET = {"Resumed"}  # every state goes on as it stood: an arrow to itself at each would hide the rest
PARTS = ("member", "coordinator", "custodian")


def machine(rules: object) -> str:
    """A state diagram of one table of moves. A message that changes nothing is left out."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, event), (_, after) in rules.items():  # type: ignore[attr-defined]
        for to in sorted(kind.__name__ for kind in after):
            if event.__name__ not in QUIET and (to != state.__name__ or len(after) > 1):
                arrows.setdefault((state.__name__, to), []).append(event.__name__)
    lines = [f"    {state} --> {to}: {', '.join(events)}" for (state, to), events in arrows.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def folders() -> dict[str, set[str]]:
    """What each folder of the package imports from the others."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "securefl").glob("*/**/*.py"):
        mine = path.relative_to(ROOT / "securefl").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("securefl."):
                other = node.module.split(".")[1]  # type: ignore[union-attr]
                if other != mine and (ROOT / "securefl" / other).is_dir():
                    found.setdefault(mine, set()).add(other)
    return found


def imports() -> str:
    """A graph of the folders; an arrow that follows from two others is left out."""
    graph = folders()

    def reached(start: str, without: tuple[str, str]) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            here = todo.pop()
            for to in graph.get(here, ()):
                if (here, to) != without and to not in seen:
                    seen.add(to)
                    todo.append(to)
        return seen

    lines = [
        f"    {here} --> {to}"
        for here in sorted(graph)
        for to in sorted(graph[here])
        if to not in reached(here, (here, to))
    ]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


def drawn(page: str) -> str:
    """The page with each diagram as the code has it now: it stands behind a comment that names it."""
    made = {name: machine(rules.RULES) for name, rules in zip(PARTS, (member, coordinator, custodian), strict=True)}
    made["imports"] = imports()
    for name, text in made.items():
        page, count = re.subn(
            rf"(<!-- {name} -->\n)```mermaid\n.*?```", lambda m, t=text: m[1] + t, page, flags=re.DOTALL
        )
        if count != 1:
            raise SystemExit(f"{PAGE.name}: the diagram {name} stands there {count} times")
    return page


if __name__ == "__main__":
    now = PAGE.read_text()
    if "--check" in sys.argv:
        raise SystemExit(0 if drawn(now) == now else f"{PAGE.name}: run python docs/diagrams.py")
    PAGE.write_text(drawn(now))
