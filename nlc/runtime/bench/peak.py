"""The most memory that a run holds beyond the weights and its inputs.

On a CPU it is how far a process grows that ran nothing before: elsewhere the allocator would hand out again what an
earlier run gave back. One process imports torch and compiles, and forks for each question. The kernel says how large a
process was on Linux alone. On CUDA torch counts.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nlc.runtime.bench.cases import Ask, Case

if TYPE_CHECKING:
    from nlc.pipeline import Spec

_SERVER = "from nlc.runtime.bench.peak import serve; serve()"
_STATUS = Path("/proc/self/status")
_WARM = 8  # tokens of a run before, for what the first use of anything costs


class Lost(Exception):
    """A run without an answer; the message says why there is none."""


def measurable() -> bool:
    """Whether this system says how large a process was at most."""
    return _STATUS.exists() and "VmHWM" in _STATUS.read_text()


def on_cuda(case: Case) -> int:
    """Bytes, in this process. Begins the case."""
    before = torch.cuda.memory_allocated(case.device)
    case.begin()
    torch.cuda.reset_peak_memory_stats(case.device)
    case.run()
    return torch.cuda.max_memory_allocated(case.device) - before


class Fresh:
    """Answers from fresh processes, on Linux. The one that forks them starts with the first question."""

    def __init__(self, ask: Ask):
        self.ask = ask
        self.server: subprocess.Popen[bytes] | None = None

    def peak(self, backend: str, mode: str, length: int, limit: float) -> int:
        """Bytes. Raises Lost if the run fails, is killed, or takes longer than ``limit`` seconds."""
        server = self.server or self._start()
        assert server.stdin is not None and server.stdout is not None
        with suppress(BrokenPipeError):  # it has ended: there is no line to read either
            server.stdin.write(f"{json.dumps([backend, mode, length])}\n".encode())
            server.stdin.flush()
        if not select.select([server.stdout], [], [], limit)[0]:
            self.close()
            raise Lost(f"its process took more than {limit:.0f} s")
        line = server.stdout.readline()
        if not line:
            self.close()
            raise Lost("its process ended without a word")
        answer = json.loads(line)
        if isinstance(answer, str):
            raise Lost(answer)
        return answer

    def close(self) -> None:
        """Ends it, and a run that is still on."""
        if self.server is not None:
            os.killpg(self.server.pid, signal.SIGKILL)
            self.server.communicate()
            self.server = None

    def _start(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(filter(None, sys.path))
        self.server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        assert self.server.stdin is not None
        pickle.dump(self.ask, self.server.stdin)
        return self.server


def serve() -> None:
    """What that process does: for each question on standard input one answer, bytes or what went wrong."""
    ask = pickle.load(sys.stdin.buffer)
    spec = ask.spec()
    for line in sys.stdin.buffer:
        backend, mode, length = json.loads(line)
        made = spec.compile(backend)
        child = os.fork()
        if child == 0:
            try:
                _say(_grown(spec, made, ask, mode, length))
            except Exception as error:
                _say(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status < 0:
            name = signal.Signals(-status).name
            why = ", as happens where memory runs out" if name == "SIGKILL" else ""
            _say(f"its process was ended by {name}{why}")


def _say(answer: int | str) -> None:
    print(json.dumps(answer), flush=True)


def _grown(spec: Spec, made: type, ask: Ask, mode: str, length: int) -> int:
    """Bytes by which this process, which ran nothing before, grows at its peak."""
    torch.set_num_threads(ask.threads)
    warm = Case(spec, made, ask, mode, min(_WARM, length))
    warm.begin()
    warm.run()
    del warm
    case = Case(spec, made, ask, mode, length)
    case.begin()
    _give_back()
    before = _kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    case.run()
    return max(0, _kilobytes("VmHWM") - before) * 1024 + case.held


def _give_back() -> None:
    """Free memory goes back to the system, or a run that uses it again would not show."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def _kilobytes(field: str) -> int:
    """Resident now (``VmRSS``) or at most (``VmHWM``)."""
    return int(_STATUS.read_text().partition(f"{field}:")[2].split()[0])
