"""The tests that hunt mutants: which of them come by a line, and whether one of them fails.

Every mutant gets a process of its own, forked from one that is ready to run tests; no file is written.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import _lru_cache_wrapper
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import coverage
import pytest
from hypothesis import HealthCheck, Phase, settings

TESTS = {
    "protocol": (
        "tests/protocol",
        "tests/keys",
        "tests/attacks/test_protocol_attacks.py",
        "tests/planning/test_patience.py",
        "tests/runtime/test_message_sizes.py",
    ),
    "policy": ("tests/policy", "tests/terms/test_rules.py", "tests/test_extending.py"),
    "privacy": ("tests/privacy", "tests/policy/test_policy_decide.py", "tests/policy/test_policy_oracle.py"),
    "ledger": ("tests/ledger", "tests/audit/test_audit_verify.py"),
    "protection": (
        "tests/protection",
        "tests/attacks/test_protection_attacks.py",
        "tests/attacks/test_protocol_attacks.py",
    ),
}
LIBRARIES = (
    "numpy", "pydantic", "sqlalchemy", "cbor2", "yaml", "alembic.command", "tenseal",
    "hypothesis.stateful", "hypothesis.extra.numpy", "dp_accounting", "dp_accounting.pld", "dp_accounting.rdp",
    "cryptography.hazmat.primitives.asymmetric.ed25519", "cryptography.hazmat.primitives.asymmetric.x25519",
    "cryptography.hazmat.primitives.ciphers.aead",
)  # fmt: skip
SLOW_S = 1.5  # a test that takes longer, in CPU seconds, hunts nothing
QUICK_S = 0.05  # a test that takes less is tried in any case
LEFT_OUT = ("postgresql", "sockets", "hundred", "encrypted_run")  # in names of tests: of another carrier, or very long
FLAGS = (
    "-x", "-q", "--no-header", "--tb=no", "--continue-on-collection-errors", "-p", "no:cacheprovider", "-p", "no:cov",
    "-p", "no:xdist", "-p", "no:warnings", "-p", "tests.support.without_torch", "--hypothesis-profile=mutants",
)  # fmt: skip
AFRESH = 77  # exit status of a child that must be born anew
KILLED, SURVIVED, UNSEEN = "killed", "survived", "no test comes by"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run without mutants showed."""

    seconds: Mapping[str, float]  # of CPU, by test
    lines: Mapping[str, Mapping[str, list[str]]]  # by path, then line: the tests that came by

    def of(self, path: str, lines: Collection[int], whole_s: float) -> tuple[dict[str, float], bool]:
        """Tests of these lines, the quickest first; all of the module, and True, where they run as it is imported.

        Last come the quick tests of the same files: where tests share a run, only the first was seen to come by.

        Args:
            whole_s: how long all but those may take.
        """
        here = self.lines.get(path, {})
        found = [set(here[str(line)]) for line in lines if str(line) in here]
        at_import = any("" in each for each in found)
        names = set().union(*(here.values() if at_import else found)) - {""}
        if at_import and not names:  # a module of constants: whoever reads them
            names = set(self.seconds)
        quickest = sorted(names & set(self.seconds), key=lambda each: (self.seconds[each], each))
        alike, place = dict[str, int](), dict[str, int]()
        for name in quickest:  # what costs nothing; then one case of each test comes before another case of any
            function = name.partition("[")[0]
            alike[function] = alike.get(function, 0) + 1
            place[name] = alike[function] if self.seconds[name] > QUICK_S else 0
        chosen, spent = dict[str, float](), 0.0
        for name in sorted(quickest, key=lambda each: place[each]):
            spent += self.seconds[name]
            if spent > whole_s:
                break
            chosen[name] = self.seconds[name]
        files = {name.partition("::")[0] for name in names}
        beside = {name: spent for name, spent in self.seconds.items() if name.partition("::")[0] in files}
        return {**chosen, **{name: spent for name, spent in beside.items() if spent <= QUICK_S}}, at_import


def prepare(examples: int) -> None:
    """Import what every test needs, and make chance the same for all."""
    settings.register_profile(
        "mutants", deadline=None, derandomize=True, database=None, max_examples=examples,
        phases=(Phase.explicit, Phase.generate), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    for name in LIBRARIES:
        importlib.import_module(name)


class Watch:
    """Note which test comes by which line, and how long it takes."""

    def __init__(self, covered: coverage.Coverage) -> None:
        self._covered = covered
        self.seconds: dict[str, float] = {}
        self.failing: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Each test is a context of its own."""
        self._covered.switch_context(item.nodeid)
        before = time.process_time()
        outcome = yield
        if item.nodeid not in self.failing:
            self.seconds[item.nodeid] = time.process_time() - before
        self._covered.switch_context("")
        return outcome

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test that fails without any mutant, or is skipped, hunts none."""
        if not report.passed:
            print(report.outcome, report.nodeid, report.longreprtext[-300:], file=sys.stderr)
            self.failing.add(report.nodeid)


def watched(root: Path, folder: str, into: Path, only: Sequence[str] = ()) -> None:
    """Run a folder's tests once, or these anew, in a process of their own; write down what was seen."""

    def child() -> int:
        covered = coverage.Coverage(data_file=None, source=[f"securefl/{folder}"], config_file=False)
        watch = Watch(covered)
        covered.start()
        pytest.main([*FLAGS[1:], *(only or TESTS[folder])], plugins=[watch, Chosen(None)])
        covered.stop()
        data = covered.get_data()
        before = json.loads(into.read_text()) if into.exists() else {"seconds": {}, "lines": {}}
        for path in data.measured_files():
            known = before["lines"].setdefault(str(Path(path).relative_to(root)), {})
            for line, tests in data.contexts_by_lineno(path).items():
                known[str(line)] = sorted({*known.get(str(line), ()), *tests})
        seconds = {name: round(spent, 3) for name, spent in watch.seconds.items() if spent < SLOW_S}
        into.write_text(json.dumps({"seconds": {**before["seconds"], **seconds}, "lines": before["lines"]}))
        return 0

    if forked(child, 3600, quiet=False):
        raise SystemExit("the tests do not run without mutants either")


class Chosen:
    """Run these tests in this order, each with no more examples than the profile says."""

    def __init__(self, names: Collection[str] | None) -> None:
        self._names = names and {name: place for place, name in enumerate(names)}
        self.failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Choose, order and shorten."""
        most = settings.get_profile("mutants").max_examples
        if self._names is not None:
            items[:] = sorted(
                (each for each in items if each.nodeid in self._names), key=lambda each: self._names[each.nodeid]
            )
        items[:] = [each for each in items if not any(way in each.nodeid for way in LEFT_OUT)]
        for each in items:
            run = getattr(each, "obj", None)
            own = getattr(run, "_hypothesis_internal_use_settings", None)
            if own is not None and own.max_examples > most:
                function = getattr(run, "__func__", run)
                function._hypothesis_internal_use_settings = settings(own, max_examples=most)  # noqa: SLF001

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember who killed it."""
        if report.failed:
            self.failed = report.nodeid


class Changed(SourceFileLoader, MetaPathFinder):
    """Imports one module as its mutant."""

    def __init__(self, module: str, path: Path, tree: ast.Module) -> None:
        super().__init__(module, str(path))
        self._tree = tree

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:  # noqa: ANN401
        """Ours for the one module."""
        spec = PathFinder.find_spec(name, path, target) if name == self.name else None
        if spec is not None:
            spec.loader = self
        return spec

    def get_code(self, fullname: str) -> CodeType:
        """The mutant's."""
        return compile(self._tree, self.path, "exec", dont_inherit=True)


class Hunter:
    """Hunts each mutant of a folder in a fork of one process that has imported everything and collected the tests.

    The functions that a mutant changes get its code, wherever they are held. What a mutant changes as its module is
    imported needs a module that is imported anew: ``afresh``.
    """

    def __init__(self, work: Callable[[Hunter], None]) -> None:
        self._work = work
        self._items: dict[str, pytest.Item] = {}
        self._functions: list[FunctionType] = []
        self._caches: list[_lru_cache_wrapper[Any]] = []
        self._failed = ""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of the tests."""
        self._items = {item.nodeid: item for item in session.items}
        gc.collect()
        held = gc.get_objects()
        self._functions = [each for each in held if isinstance(each, FunctionType)]
        self._caches = [each for each in held if isinstance(each, _lru_cache_wrapper)]
        del held
        gc.freeze()  # a child that counts no references of its parent's shares its memory
        gc.disable()
        self._work(self)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember who killed it."""
        if report.failed:
            self._failed = report.nodeid

    def hunted(self, path: Path, tree: ast.Module, tests: Mapping[str, float]) -> tuple[str, str] | None:
        """Return what became of one mutant, and the test that killed it; None if it must be imported afresh.

        Args:
            tests: with the seconds that each takes.
        """
        reader, writer = os.pipe()

        def child() -> int:
            if not self._swapped(path, compile(tree, str(path), "exec", dont_inherit=True)):
                return AFRESH
            items = [self._items[name] for name in tests if name in self._items]
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            for item, following in zip(items, [*items[1:], None], strict=True):
                signal.setitimer(signal.ITIMER_PROF, 20 + 5 * tests[item.nodeid])  # of CPU; then it never ends
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if self._failed:
                    os.write(writer, self._failed.encode())
                    return 1
            return 0

        code = forked(child, 60 + 2 * sum(tests.values()))
        os.close(writer)
        with os.fdopen(reader) as told:
            by = told.read()
        if code == AFRESH:
            return None
        return (SURVIVED, "") if code == 0 else (KILLED, by or "it never ended, or broke the process")

    def _swapped(self, path: Path, module: CodeType) -> int:
        """Return how many functions of this module have another code now."""
        codes, count = dict(_codes(module)), 0
        for function in self._functions:
            old = function.__code__
            if old.co_filename == str(path):
                new = codes.get((old.co_qualname, old.co_firstlineno))
                if new is not None and new != old and new.co_freevars == old.co_freevars:
                    function.__code__ = new
                    count += 1
        for cache in self._caches:
            cache.cache_clear()
        return count


def _codes(code: CodeType) -> Iterator[tuple[tuple[str, int], CodeType]]:
    """The code of every function inside, by its name and first line."""
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield (each.co_qualname, each.co_firstlineno), each
            yield from _codes(each)


def hunting(folder: str, work: Callable[[Hunter], None]) -> None:
    """Collect a folder's tests, and work."""
    pytest.main([*FLAGS[1:], "-s", *TESTS[folder]], plugins=[Chosen(None), Hunter(work)])


def afresh(path: Path, module: str, tree: ast.Module, tests: list[str], limit_s: float) -> tuple[str, str]:
    """Return what became of one mutant, imported by a process that has imported nothing of the package."""
    reader, writer = os.pipe()

    def child() -> int:
        sys.meta_path.insert(0, Changed(module, path, tree))
        chosen = Chosen(tests)
        files = list(dict.fromkeys(name.partition("::")[0] for name in tests))
        code = pytest.main([*FLAGS, *files], plugins=[chosen])
        os.write(writer, (chosen.failed or f"pytest ended with {code}").encode())
        return int(code)

    code = forked(child, limit_s)
    os.close(writer)
    with os.fdopen(reader) as told:
        by = told.read()
    return (SURVIVED, "") if code == 0 else (KILLED, by if code > 0 else "it never ended, or broke the process")


class Stem:
    """A process that has imported the libraries and nothing of the package: what is hunted afresh is forked from it."""

    def __init__(self) -> None:
        self._here, there = multiprocessing.Pipe()
        if os.fork() == 0:
            self._here.close()  # so that it ends with its parent
            with contextlib.suppress(EOFError):
                while True:
                    there.send(afresh(*there.recv()))
            os._exit(0)
        there.close()

    def hunted(self, path: Path, module: str, tree: ast.Module, tests: list[str], limit_s: float) -> tuple[str, str]:
        """As ``afresh``."""
        self._here.send((path, module, tree, tests, limit_s))
        found: tuple[str, str] = self._here.recv()
        return found


def forked(run: Any, limit_s: float, *, quiet: bool = True) -> int:  # noqa: ANN401
    """Exit status of ``run`` in a child of its own, below 0 if it was killed.

    Args:
        limit_s: of CPU; it may wait ten times as long.
    """
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit_s) + 1, int(limit_s) + 2))
            resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
            if quiet:
                nothing = os.open(os.devnull, os.O_RDWR)
                for stream in (0, 1, 2):
                    os.dup2(nothing, stream)
            code = int(run())
        finally:
            sys.stdout.flush()
            os._exit(code)
    until = time.monotonic() + 10 * limit_s
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > until:
            os.killpg(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            break
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what it started
    return os.waitstatus_to_exitcode(status)
