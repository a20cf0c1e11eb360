"""Progress in files."""

import io

from lammps_trajcast.progress_bar import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def filled(stream: io.StringIO) -> str:
    with ProgressBar(total=40, unit="frame", file=stream) as bar:
        for k in range(40):
            bar.set_postfix_str(f"part {k}")
            bar.update()
    return stream.getvalue()


def test_a_file_gets_lines() -> None:
    lines = filled(io.StringIO()).split("\n")
    assert not any("\r" in line for line in lines)
    first, last, end = lines
    assert "0/40" in first
    assert "40/40" in last
    assert end == ""


def test_a_terminal_gets_one_line() -> None:
    text = filled(Terminal())
    assert "\r" in text
    assert "40/40" in text


def test_a_bar_that_is_not_wanted_is_silent() -> None:
    stream = io.StringIO()
    with ProgressBar(total=3, file=stream, disable=True) as bar:
        bar.update(3)
    assert stream.getvalue() == ""
