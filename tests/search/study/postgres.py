"""A PostgreSQL for tests: this machine's, or that of the package pgserver, on a port of its own below /tmp."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


def find_programs() -> Path | None:
    """Return the directory with `initdb` and `pg_ctl`, None where there is none."""
    found = shutil.which("pg_ctl")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    package = importlib.util.find_spec("pgserver")
    if package is not None and package.origin is not None:
        places.append(Path(package.origin).parent / "pginstall" / "bin")
    return next(
        (place for place in places if all((place / p).is_file() for p in ("initdb", "pg_ctl"))),
        None,
    )


@dataclass(frozen=True)
class Postgres:
    """A server that can be stopped and started again."""

    programs: Path
    data: Path
    port: int

    @property
    def url(self) -> str:
        """Where it listens, as Optuna takes it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        )
        self._run(
            "pg_ctl",
            "-w",
            "-D",
            str(self.data),
            "-l",
            str(self.data / "log"),
            "-o",
            options,
            "start",
        )

    def stop(self) -> None:
        """End it and every connection."""
        self._run("pg_ctl", "-w", "-D", str(self.data), "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        # It refuses to run as root.
        user = "nobody" if os.geteuid() == 0 else None
        subprocess.run(
            [str(self.programs / program), *arguments],
            user=user,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
            cwd="/",
        )


@contextlib.contextmanager
def running_postgres(programs: Path) -> Iterator[Postgres]:
    """Yield a new, empty server; it ends with the context."""
    # Not below pytest's directories: another user than root has no way there.
    directory = Path(tempfile.mkdtemp(prefix="tvm-mnas-postgres-", dir="/tmp"))
    try:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        directory.chmod(0o755)
        data = directory / "data"
        data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(data, "nobody")
        server = Postgres(programs, data, port)
        server._run("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync")
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
