"""Before anything heavy is imported: one thread that waits quietly, and nothing fetched."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.update(OMP_WAIT_POLICY="passive", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from securefl.runtime import starting  # noqa: E402

starting.IMPORTED += ["tests.support.parties", "pytest"]  # what processes of tests import besides

settings.register_profile("here", deadline=None, derandomize=bool(os.environ.get("CI")), max_examples=60)
settings.load_profile("here")

MEMORY, ROOM = Path("/dev/shm"), 4 << 30  # bytes: a whole run writes less than one GiB


def in_memory() -> bool:
    """Whether tests can write to memory, and run programs there: to wait for a disk would show nothing more."""
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return False
    return os.access(MEMORY, os.W_OK) and not found.f_flag & os.ST_NOEXEC and found.f_bavail * found.f_frsize >= ROOM


if in_memory():
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))  # where pytest makes folders of tests


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A small federation on disk: three members, a tiny model, made-up messages."""
    from tests.support.small import Small

    return Small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def finished(small, tmp_path_factory):
    """A small run that finished; copy it before changing it."""
    home = tmp_path_factory.mktemp("finished")
    result = small.run(home / "run", home / "sites", page=True)
    assert result.outcome == "finished", result.why
    return home


@pytest.fixture(scope="session")
def postgres_server():
    """A PostgreSQL of this test session's own."""
    from tests.support import postgres

    with postgres.running(postgres.NOT_DURABLE) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def stores(request, tmp_path):
    """Where stores are kept, for each kind of database there is."""
    from tests.support.stores import Stores

    if request.param == "sqlite":
        return Stores(tmp_path)
    return Stores(tmp_path, request.getfixturevalue("postgres_server").database())
