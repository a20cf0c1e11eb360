"""Measurements in processes of their own: programs with their peak memory, Python functions."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from lammps_trajcast.child_processes import end_with_creator, ending_with_this_process

T = TypeVar("T")


class BenchmarkError(Exception):
    """A measurement that could not be made; the message says why."""


@dataclass(frozen=True)
class FinishedRun:
    """What the operating system says of a program that has ended.

    wall:   s.
    cpu:    s, of all its threads and processes.
    memory: bytes, largest resident set of its largest process.
    output: of both streams.
    """

    wall: float
    cpu: float
    memory: int
    output: str


def run_program(
    command: list[str],
    directory: Path,
    environment: dict[str, str] | None = None,
    memory_limit: int | None = None,
) -> FinishedRun:
    """Run a program to its end.

    The peak of a child process is never below that of the process that started it: call this from
    a small one.

    Args:
        command: program and arguments.
        directory: where to run.
        environment: variables to add.
        memory_limit: bytes of data that the program may have; default: no limit.

    Raises:
        BenchmarkError: it ended with an error; with its last line.
    """
    end = ending_with_this_process()

    def limit() -> None:
        end()
        if memory_limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (memory_limit, memory_limit))

    begin = time.perf_counter()
    with (directory / "output").open("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **(environment or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=limit,
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - begin
        output.seek(0)
        text = output.read()
    if process.returncode:
        errors = [line for line in text.splitlines() if "ERROR" in line] or text.splitlines()[-1:]
        reason = errors[-1] if errors else ""
        raise BenchmarkError(f"{command[0]} ended with status {process.returncode}: {reason}")
    return FinishedRun(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, text)


def in_child(function: Callable[..., T], *arguments: Any) -> T:
    """Return function(*arguments), called in a fresh Python process.

    Keeps torch and its memory out of this process, whose children's peaks are measured.
    """
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=end_with_creator
    ) as pool:
        return pool.submit(function, *arguments).result()
