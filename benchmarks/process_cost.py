"""What a command costs as a whole process: CPU and wall seconds, and memory at its peak. Linux only."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_S = 0.05
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Cost:
    """Cost of one run; `failure` says why the numbers are not to be used.

    cpu_s: user and system time of the process and of every descendant that was waited for.
    peak_mb: the largest sum of resident sets over the processes of its session, in samples 50 ms apart.
    """

    cpu_s: float
    wall_s: float
    peak_mb: float
    failure: str | None = None


def run_process(command: Sequence[str], *, log: Path, limit_s: float, extra: Mapping[str, str]) -> Cost:
    """Run `command` in a session of its own and wait for it.

    Args:
        command: the program and its arguments.
        log: file for its output and messages.
        limit_s: seconds after which the whole session is killed.
        extra: environment variables on top of ours.
    """
    peak_bytes, is_late, is_over = 0, False, threading.Event()
    with log.open("wb") as sink:
        started_s = time.perf_counter()
        environment = {**os.environ, **extra}
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=environment,
            start_new_session=True,
        )

    def watch() -> None:
        nonlocal peak_bytes, is_late
        while not is_over.wait(SAMPLE_S):
            peak_bytes = max(peak_bytes, session_bytes(process.pid))
            if time.perf_counter() - started_s > limit_s:
                is_late = True
                kill_session(process.pid)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started_s
    except KeyboardInterrupt:
        kill_session(process.pid)
        raise
    finally:
        is_over.set()
        watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)  # we waited in its place
    failure = f"no end after {limit_s:g} s" if is_late else None
    if process.returncode and not is_late:
        failure = f"status {process.returncode}: {last_lines(log)}"
    return Cost(usage.ru_utime + usage.ru_stime, wall_s, peak_bytes / 1e6, failure)


def session_bytes(session: int) -> int:
    """Sum the resident sets of a session's processes, as /proc/PID/stat gives them."""
    n_pages = 0
    for name in os.listdir("/proc"):  # noqa: PTH208 (twenty times a second, beside what is measured)
        if name.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
                # From the third field of proc(5) on: the session is its 6th, the resident set its 24th.
                n_pages += int(fields[21]) if int(fields[3]) == session else 0
    return n_pages * PAGE_BYTES


def kill_session(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def last_lines(log: Path) -> str:
    """Give the last two lines: an error and its hint."""
    lines = [line.strip()[:200] for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-2:]) or "no message"
