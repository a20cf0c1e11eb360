"""Accelerated styles of LAMMPS for the rest of an input: the suffixes omp and opt."""

from __future__ import annotations

import re

import numpy as np
import pytest
from locations import EXAMPLES, POTENTIALS
from models import LIGHT_QUARTZ
from reliability import wrong_input
from systems import load_case

SUFFIXES = {
    "omp, threads in the neighbor list too": ["-sf", "omp", "-pk", "omp", "2", "neigh", "yes"],
    "opt": ["-sf", "opt"],
}
OFF = ("pair_style", "suffix off\npair_style"), ("timestep", "suffix on\ntimestep")


@pytest.mark.own_process
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("ranks", [0, pytest.param(2, marks=pytest.mark.long)])
def test_the_trajectory_is_the_same(lmp, model_file, suffix: str, ranks: int) -> None:
    """Neighbor list and thermostat are those of the package; the sum of forces is LAMMPS's."""
    system = load_case("quartz_l2")
    bath = "fix 2 all langevin 300 300 300 7\n"
    extra = f"{bath}fix 3 all addforce 0.01 0 0\nneigh_modify delay 0 every 1 check yes"
    script = system.script(model_file("quartz_l2"), 5, options="precision double", extra=extra)
    states = []
    for options in ([], SUFFIXES[suffix]):
        run = lmp(script, system, ranks=ranks, options=options)
        assert run.returncode == 0, run.output
        states.append(run.final())
    for plain, accelerated in zip(*states, strict=True):
        np.testing.assert_allclose(accelerated, plain, atol=1e-10)


def shortened(*changes: tuple[str, str]) -> str:
    text = (EXAMPLES / "lammps_inputs" / "in.energy").read_text()
    text = text.replace("../quartz/quartz.safetensors", str(LIGHT_QUARTZ))
    for old, new in (("../quartz", str(EXAMPLES / "quartz")), *changes):
        assert old in text
        text = text.replace(old, new)
    return text


def energies(output: str) -> list[str]:
    (table,) = re.findall(r"^ +Step.*\n((?: .*\n)+)Loop", output, re.MULTILINE)
    # Without the counter of evaluations and whatever depends on the clock.
    return [line.split()[3] for line in table.splitlines() if re.match(r" +\d", line)]


@pytest.mark.own_process
def test_a_reference_potential(lmp, record_property) -> None:
    """Where the package would take it over it is refused, with what to write instead."""
    steps = ["-var", "steps", "20"]
    plain = lmp(shortened(), options=steps, environment=POTENTIALS)
    assert plain.returncode == 0, plain.output
    refused = lmp(shortened(), options=[*steps, "-sf", "omp"], environment=POTENTIALS)
    assert refused.returncode != 0
    remedy = "write 'suffix off' before pair_style and 'suffix on' after pair_coeff"
    assert remedy in refused.error()
    wrong_input(record_property, "a reference potential with the suffix omp", remedy)
    for options, changes in ((["-sf", "omp"], OFF), (["-sf", "opt"], ())):
        run = lmp(shortened(*changes), options=[*steps, *options], environment=POTENTIALS)
        assert run.returncode == 0, run.output
        assert energies(run.output) == energies(plain.output)
