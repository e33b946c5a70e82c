"""One folder, one process: a lock file that names who writes, and that a dead process does not keep.

`.celbo-lock` in a folder says which process on which machine writes there. A process is known by its id and the moment
of its start, for ids come again. The lock of a process that is gone from this machine is taken over; whether one of
another machine is alive nobody here can tell, so the user is told what to remove.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from celbo.errors import WriteError
from celbo.files import named_errors

__all__ = ["LOCK", "Holder", "alone", "refuse_held"]

LOCK = ".celbo-lock"
"""Name of the file in a folder that is written to."""
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}
"""What a file system without hard links answers."""
_LONGEST = 4096


@dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    host: str
    boot: str
    """What is the same until the machine is started anew; "" where that is not known."""
    namespace: str
    """What tells the process ids of a container from others; "" where there is no such thing."""
    pid: int
    started: str
    """When the process was started, in the words of the system; "" where that is not known."""
    since: str
    """Since when it holds the lock."""

    @classmethod
    def here(cls) -> Holder:
        """Return this process."""
        pid = os.getpid()
        return cls(*_machine(), pid, _started(pid) or "", time.strftime("%Y-%m-%d %H:%M:%S"))

    @property
    def is_this_process(self) -> bool:
        """Whether it is this very process."""
        return self._process == Holder.here()._process

    @property
    def _process(self) -> tuple[str, str, str, int, str]:
        return self.host, self.boot, self.namespace, self.pid, self.started

    @property
    def is_elsewhere(self) -> bool:
        """Whether nobody here can tell if it is alive: another machine, or another container of this one."""
        host, boot, namespace = _machine()
        return self.host != host or (self.boot == boot and self.namespace != namespace)

    @property
    def is_dead(self) -> bool:
        """Whether it is certain that the process is gone."""
        if self.is_elsewhere:
            return False
        if self.boot != _machine()[1]:
            return True
        started = _started(self.pid)
        return started is None or bool(started and self.started and started != self.started)

    def refusal(self, folder: Path) -> WriteError:
        """Return the error of one who finds the folder in use."""
        who = f"by process {self.pid} on this machine, since {self.since}"
        fix = "Wait for it to end, or choose another folder."
        if self.is_elsewhere:
            who = f"by process {self.pid} on {self.host!r}, another machine or container, since {self.since}"
            fix = f"If it no longer runs there, remove {str(folder / LOCK)!r} and try again."
        elif self.is_this_process:
            who, fix = "by this very process", "Let the other thread end, or choose another folder."
        return WriteError("is being written to", where=f"the folder {str(folder)!r}", value=who, fix=fix)


def refuse_held(folder: str | os.PathLike[str]) -> None:
    """Raise a `WriteError` where a living process, or one that may live elsewhere, writes to a folder."""
    holder = _read(Path(folder) / LOCK)
    if holder is not None and not holder.is_dead:
        raise holder.refusal(Path(folder))


@contextmanager
def alone(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the lock of a folder, which must exist, while the block runs.

    Raises
    ------
    WriteError
        If another process holds it, or it cannot be written.
    """
    folder = Path(folder)
    own = Holder.here()
    _take(folder, own)
    try:
        yield
    finally:
        if os.getpid() == own.pid:  # not in a process that was forked meanwhile
            with suppress(OSError), _guarded(folder):
                if _read(folder / LOCK) == own:
                    (folder / LOCK).unlink()


def _take(folder: Path, own: Holder) -> None:
    path = folder / LOCK
    with named_errors(path), _guarded(folder):
        holder = _read(path)
        if holder is not None and not holder.is_dead:
            raise holder.refusal(folder)
        if path.is_symlink() or path.exists():
            path.unlink()
        temporary = folder / f"{LOCK}.{uuid.uuid4().hex[:12]}.tmp"
        try:
            temporary.write_text(json.dumps(asdict(own)) + "\n", encoding="utf-8")
            _link(temporary, path)
        except FileExistsError:
            pass  # somebody was faster, on a file system that knows no guard
        finally:
            temporary.unlink(missing_ok=True)
    holder = _read(path)
    if holder != own:
        raise (holder or own).refusal(folder)


def _link(temporary: Path, path: Path) -> None:
    """Give the lock its name, unless there is one: by a link, which is there whole or not at all."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with path.open("x", encoding="utf-8") as stream:
            stream.write(temporary.read_text(encoding="utf-8"))


@contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """Let one process at a time look at the lock and change it, where the file system can hold others off."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> Holder | None:
    """Return who holds a lock; None where nobody does, or where the file says nothing that a lock can say."""
    try:
        with path.open("rb") as stream:
            found: Any = json.loads(stream.read(_LONGEST))
        holder = Holder(**found)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = (holder.host, holder.boot, holder.namespace, holder.started, holder.since)
    good = all(isinstance(text, str) and text.isprintable() for text in texts)
    return holder if good and type(holder.pid) is int and 0 < holder.pid < 2**31 else None


@cache
def _machine() -> tuple[str, str, str]:
    """Return the machine's name, what is the same until it is started anew, and the space of its process ids."""
    boot = namespace = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 (a name that is no path)
    return socket.gethostname(), boot, namespace


def _started(pid: int) -> str | None:
    """Return when a process was started, "" where that cannot be told, and None where it is gone or has ended."""
    if os.name != "posix":
        return ""
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *rest = stat.rpartition(")")[2].split()
        return None if state in "ZX" else rest[18]
    try:
        os.kill(pid, 0)  # asks, and sends nothing
    except ProcessLookupError:
        return None
    except OSError:
        return ""
    with suppress(OSError):  # macOS
        command = ["ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return ""
