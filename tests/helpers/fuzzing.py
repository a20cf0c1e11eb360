"""Fuzzing with hypothesis: for some seconds, or a fixed number of examples."""

import time
from collections.abc import Callable
from typing import Any

import hypothesis
from hypothesis import strategies as st

EXAMPLES = 50


def fuzz(check: Callable[..., None], *inputs: st.SearchStrategy[Any], seconds: float) -> int:
    """Call `check` with generated inputs until the time is over; at least EXAMPLES times.

    Returns how many inputs there were. The first round is the same each time.
    """
    settings = hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    tried = 0

    def counted(arguments: tuple[Any, ...]) -> None:
        nonlocal tried
        tried += 1
        check(*arguments)

    end, round_number = time.monotonic() + seconds, 0
    while round_number == 0 or time.monotonic() < end:
        generated = hypothesis.given(st.tuples(*inputs))(counted)
        hypothesis.seed(round_number)(settings(generated))()
        round_number += 1
    return tried


def mutations(content: bytes) -> st.SearchStrategy[bytes]:
    """Strategy: the content with some bytes replaced, cut out or put in; or any bytes at all."""
    place = st.integers(0, len(content))
    edit = st.tuples(place, st.integers(0, 8), st.binary(max_size=8))

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        changed = bytearray(content)
        for start, length, put in edits:
            changed[start : start + length] = put
        return bytes(changed)

    flip = st.tuples(place, st.just(1), st.binary(min_size=1, max_size=1))
    return st.one_of(
        st.lists(flip, min_size=1, max_size=3).map(apply),
        st.lists(edit, min_size=1, max_size=5).map(apply),
        st.binary(max_size=200),
        st.tuples(place, st.binary(max_size=50)).map(lambda p: content[: p[0]] + p[1]),
    )
