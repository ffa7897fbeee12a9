"""What one mutant changes: one operator, constant, condition, named argument or statement of a module.

Left alone, as no test should depend on it: docstrings and annotations, f-strings, strings with a blank in them and the
words of a ``raise`` (its rule is changed), ``assert`` (what only a bug can break), imports, decorators, and
descriptions of fields.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitXor,
    ast.BitXor: ast.BitAnd,
}  # fmt: skip
COUSINS = {"any": "all", "all": "any", "min": "max", "max": "min", "ceil": "floor", "floor": "ceil"}
SILENT = frozenset({"description", "title", "help", "examples"})
UNREAD = frozenset({"annotation", "returns", "decorator_list", "type_params"})
RULE = re.compile(r"[a-z]+(\.[a-z-]+)+")


@dataclass(frozen=True, slots=True)
class Change:
    """One node of a tree, and what may stand in its place; ``index`` is its place where ``field`` is a list."""

    holder: ast.AST
    field: str
    index: int | None
    new: ast.AST
    old: ast.AST
    function: str
    statement: ast.stmt

    def make(self) -> None:
        """Change the tree."""
        if self.index is None:
            setattr(self.holder, self.field, self.new)
        else:
            getattr(self.holder, self.field)[self.index] = self.new


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one module, told in words that stay the same while lines around it move."""

    path: str
    function: str
    before: str
    after: str
    alike: int  # how many changes of the same words come before it in its function
    index: int  # among all changes of its module
    lines: range  # 1-based: where a test must have been to see it

    @property
    def name(self) -> str:
        """One line, and no other mutant's."""
        again = f" (again, {self.alike})" if self.alike else ""
        return f"{self.path} {self.function}: {self.before} -> {self.after}{again}"

    def place(self, seed: int) -> str:
        """Its place in the sample: as good as random, and the same whatever is added around it."""
        return hashlib.sha256(f"{seed} {self.name}".encode()).hexdigest()


def mutants(root: Path, path: Path) -> Iterator[Mutant]:
    """Every mutant of one module below ``root``."""
    seen: dict[tuple[str, str, str], int] = {}
    for index, change in enumerate(_changes(ast.parse(path.read_text()))):
        function, before, after = words = change.function, _short(change.old), _short(change.new)
        seen[words] = seen.get(words, -1) + 1
        first = change.old.lineno  # type: ignore[attr-defined]
        last = change.old.end_lineno  # type: ignore[attr-defined]
        lines = range(min(first, change.statement.lineno), last + 1)
        yield Mutant(str(path.relative_to(root)), function, before, after, seen[words], index, lines)


def mutated(source: str, index: int) -> ast.Module:
    """The module's tree with one of its changes made."""
    tree = ast.parse(source)
    list(_changes(tree))[index].make()
    return ast.fix_missing_locations(tree)


def _short(node: ast.AST) -> str:
    words = " ".join(ast.unparse(node).split())
    return words if len(words) <= 140 else f"{words[:90]} … {words[-45:]}"


def _changes(node: ast.AST, function: str = "module", statement: ast.stmt | None = None) -> Iterator[Change]:
    for field, value in ast.iter_fields(node):
        if field in UNREAD:
            continue
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or _left_alone(child):
                continue
            name, within = function, child if isinstance(child, ast.stmt) else statement
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                name = child.name if function == "module" else f"{function}.{child.name}"
            news = list(_instead(child))
            if field in {"test", "ifs"} and not isinstance(child, ast.Compare | ast.BoolOp | ast.UnaryOp):
                news.append(ast.UnaryOp(ast.Not(), child))
            for new in news:
                assert within is not None, "an expression outside of every statement"
                place = index if isinstance(value, list) else None
                yield Change(node, field, place, ast.copy_location(new, child), child, name, within)
            below = _changes(child, name, within)
            if isinstance(child, ast.Raise):  # its rule is a fact, the rest are words
                below = (each for each in below if isinstance(each.old, ast.Constant) and _is_rule(each.old.value))
            yield from below


def _left_alone(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Assert() | ast.JoinedStr() | ast.Expr(ast.Constant()):
            return True
        case ast.If(ast.Name("TYPE_CHECKING")):
            return True
        case ast.keyword(arg=name):
            return name in SILENT
    return False


def _is_rule(value: object) -> bool:
    return isinstance(value, str) and RULE.fullmatch(value) is not None


def _instead(node: ast.AST) -> Iterator[ast.AST]:  # noqa: C901, PLR0912 - a table
    match node:
        case ast.Compare():
            for place, op in enumerate(node.ops):
                ops = [*node.ops[:place], SWAPPED[type(op)](), *node.ops[place + 1 :]]
                yield ast.Compare(node.left, ops, node.comparators)  # type: ignore[arg-type]
        case ast.BoolOp(op, values):
            yield ast.BoolOp(SWAPPED[type(op)](), values)  # type: ignore[arg-type]
        case ast.UnaryOp(ast.Not(), operand) | ast.UnaryOp(ast.USub(), operand):
            yield operand
        case ast.BinOp(left, op, right) if type(op) in SWAPPED:
            yield ast.BinOp(left, SWAPPED[type(op)](), right)  # type: ignore[arg-type]
        case ast.AugAssign(target, op, value) if type(op) in SWAPPED:
            yield ast.AugAssign(target, SWAPPED[type(op)](), value)  # type: ignore[arg-type]
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)) | ast.Constant(float(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(str(value)) if " " not in value:
            yield ast.Constant("XX" + value)
        case ast.Constant(bytes(value)):
            yield ast.Constant(b"XX" + value)
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()
        case ast.Raise() | ast.Expr(ast.Call()):
            yield ast.Pass()
        case ast.Call(func, args, keywords):
            if isinstance(func, ast.Name) and func.id in COUSINS:
                yield ast.Call(ast.Name(COUSINS[func.id], ast.Load()), args, keywords)
            if isinstance(func, ast.Attribute) and func.attr in COUSINS:
                yield ast.Call(ast.Attribute(func.value, COUSINS[func.attr], ast.Load()), args, keywords)
            for place, keyword in enumerate(keywords):
                if keyword.arg is not None and not _left_alone(keyword):
                    yield ast.Call(func, args, keywords[:place] + keywords[place + 1 :])
