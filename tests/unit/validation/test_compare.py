"""How values of a report are written."""

from __future__ import annotations

import pytest

from lammps_trajcast.validation.compare import Check, in_digits


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1600.0, "1600"),
        (1234567.0, "1230000"),
        (0.09731, "0.0973"),
        (6.62e-29, "0"),
        (-0.00212, "-0.00212"),
        (6.55e-05, "6.55e-05"),
        (float("nan"), "nan"),
    ],
)
def test_numbers_are_written_as_people_do(value: float, text: str) -> None:
    assert in_digits(value) == text


def test_shares_are_per_cent() -> None:
    assert Check("x", 0.02, "%", 0.05).text(0.1234) == "12.3 %"
    assert Check("x", 0.02, "ps").text(2500.0) == "2500 ps"
