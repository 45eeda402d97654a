"""The name of a storage turned into an Optuna storage that is waited for patiently."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, quote_plus

from offramp.features.errors import InputError
from offramp.features.store.limits import JOURNAL_BYTES, LINE_BYTES
from offramp.features.store.opening import refuse_unopenable

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

Result = TypeVar("Result")


FIRST_WAIT, LONGEST_WAIT = 0.25, 8.0
"""Seconds before a storage that did not answer is asked again: doubled each time, up to the longest."""


class OutOfReachError(OSError):
    """The study's storage does not answer any more; what it holds is as it was."""


def storage_named(storage: str, folder: Path) -> str:
    """What ``--storage`` means: a URL as it is, ``journal:FILE``, or a file for SQLite; "" is one in ``folder``."""
    if storage.startswith("journal:") or "://" in storage:
        return storage
    from sqlalchemy.engine import URL

    path = Path(storage) if storage else folder / "study.db"
    return URL.create("sqlite", database=str(path.resolve())).render_as_string()


def shown(storage: str) -> str:
    """A storage's address without its password, and without what stands behind a question mark, as that can hold
    passwords too; a file's as it is."""
    if "://" not in storage:
        return storage
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(storage)
        if url.drivername == "sqlite":
            return url.database or "sqlite://"
        asked = "?..." if url.query else ""
        return url.set(query={}).render_as_string(hide_password=True) + asked
    except (ArgumentError, ValueError):
        return storage.partition("://")[0] + "://..."


def reason_of(error: BaseException, storage: str) -> str:
    """The innermost reason of an error, short, without what ``shown`` does not show of the storage's address."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = str(error) or type(error).__name__
    if "://" in storage:
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            url = make_url(storage)
        except (ArgumentError, ValueError):
            return "no address of a database"
        values = () if url.drivername == "sqlite" else (url.password, *url.query.values())
        secrets = {each for value in values if value for each in ((value,) if isinstance(value, str) else value)}
        written = {form for each in secrets if each for form in (each, quote(each), quote_plus(each))}
        for secret in sorted(written, key=len, reverse=True):
            said = said.replace(secret, "***")
    return " ".join(said.split())[:200]


DRIVERS = {
    "postgresql": (("psycopg2", "psycopg2"), ("psycopg", "psycopg")),
    "mysql": (("MySQLdb", "mysqldb"), ("pymysql", "pymysql")),
}
"""Per database modules that can talk to it, and what SQLAlchemy calls them; the first that is there is taken."""


def _with_driver(url: str) -> str:
    from importlib.util import find_spec

    scheme, _, rest = url.partition("://")
    if scheme not in DRIVERS:
        return url
    for module, name in DRIVERS[scheme]:
        if find_spec(module) is not None:
            return f"{scheme}+{name}://{rest}"
    wanted = "psycopg[binary]" if scheme == "postgresql" else "pymysql"
    raise InputError(f"a driver for {scheme} (pip install '{wanted}')", "none", "--storage")


class _FileLock:
    """A lock of the kernel's: whoever is killed lets go of it at once, and nobody has to wait for a forgotten file."""

    def __init__(self, path: str) -> None:
        self.path, self.file = f"{path}.lock", -1
        self.mutex = threading.Lock()

    def acquire(self) -> bool:
        """Wait for it."""
        import fcntl

        self.mutex.acquire()
        self.file = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o644)
        fcntl.flock(self.file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Let go."""
        os.close(self.file)
        self.mutex.release()


def _open_storage(address: str, patience: float) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.storages.journal._file import get_lock_file

    if address.startswith("journal:"):
        path = Path(address.removeprefix("journal:"))
        if not path.parent.is_dir() or path.is_dir():
            raise InputError("a file in a folder that is there", str(path), "--storage journal")
        if path.exists():
            refuse_unopenable(path, "a journal that Optuna wrote", JOURNAL_BYTES)
        try:
            import fcntl  # noqa: F401 - not everywhere
        except ImportError:
            lock: Any = None
        else:
            lock = _FileLock(str(path))

        class Backend(JournalFileBackend):
            """Whoever is killed while writing leaves half a line: it is taken off before the next one is added."""

            def append_logs(self, logs: list[dict[str, Any]]) -> None:
                with get_lock_file(self._lock):
                    _mend(path)
                super().append_logs(logs)

        backend = Backend(str(path), lock)
        with get_lock_file(backend._lock):
            _mend(path)
        return JournalStorage(backend)
    from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError, OperationalError

    url = _with_driver(address)
    sqlite = url.startswith("sqlite")
    if sqlite and (file := Path(shown(url))).exists():
        refuse_unopenable(file, "an SQLite file")
    wait = {"connect_args": {"timeout": min(5.0, patience / 4)}} if sqlite else {"pool_pre_ping": True}
    try:
        storage = RDBStorage(url, engine_kwargs=wait)
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
        raise InputError(
            "a file, journal:FILE, or a database's URL", reason_of(error, url), f"--storage {shown(url)}"
        ) from None
    except DatabaseError as error:
        if isinstance(error, OperationalError) or "not a database" not in str(error):
            raise
        raise InputError("an SQLite file", "some other file", f"--storage {shown(url)}") from None
    if sqlite:
        _prepare_sqlite(storage.engine)
    return storage


JOURNAL_BEGINS = b'{"op_code":'


def _mend(journal: Path) -> None:
    """Take off the half of a line that ends a journal, which nobody has read; a file of another kind stays as it is."""
    with journal.open("r+b") as file:
        if file.read(len(JOURNAL_BEGINS)) != JOURNAL_BEGINS:
            return
        size = begin = file.seek(0, os.SEEK_END)
        last = b""
        while begin and b"\n" not in last:
            begin = max(0, begin - LINE_BYTES)
            file.seek(begin)
            last = file.read(LINE_BYTES)
        if (end := begin + last.rfind(b"\n") + 1) < size:
            file.truncate(end)


def _prepare_sqlite(engine: Any) -> None:
    """Let several processes share the file, and not wait for the disk at every line.

    SQLite lets two processes read "waiting" and both write "running" unless a transaction locks when it begins. With a
    write-ahead log it waits for the disk at times rather than thrice a transaction, which took half of a trial's time;
    a power cut can cost the last moments, a killed process nothing.
    """
    import sqlite3

    from sqlalchemy import event

    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        with suppress(sqlite3.OperationalError):  # somebody else is in it: then as it is
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections made before are of the old kind


def patiently(work: Callable[[], Result], address: str, patience: float) -> Result:
    """The result of ``work``, tried again while the storage does not answer, ever more slowly, for so many seconds.

    Raises OutOfReachError after that.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    begin, wait = time.monotonic(), FIRST_WAIT
    while True:
        try:
            return work()
        except (StorageInternalError, SQLAlchemyError, OSError) as error:
            left = begin + patience - time.monotonic()
            if left <= 0 or isinstance(error, OutOfReachError):
                raise OutOfReachError(_why(error, address, patience)) from error
            time.sleep(min(wait, left) * (0.75 + 0.5 * random.random()))
            wait = min(2 * wait, LONGEST_WAIT)


def _why(error: BaseException, address: str, patience: float) -> str:
    place = shown(address)
    reason = reason_of(error, address)
    if "locked" in reason:
        return (
            f"{place} has been locked by another program for {patience:.0f} s; end that program, or wait, and give the "
            "same command again: it goes on where it stopped"
        )
    return (
        f"{place} has not answered for {patience:.0f} s ({reason}); the study is as it was: give the same command "
        "again and it goes on"
    )
