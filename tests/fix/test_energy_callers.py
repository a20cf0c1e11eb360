"""Fixes and computes that evaluate the pair style themselves, beside the energy on demand.

Each acts in a step in which nothing else asks for an energy. Its results have to be those of plain
LAMMPS for the same atoms and random numbers, and those of a run with output in every step.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from models import tiny_model
from reliability import energy, wrong_input
from systems import System


class Caller(NamedTuple):
    """A fix or compute `c`."""

    commands: str
    values: tuple[str, ...]
    atoms: str = "atomic"  # the atom style
    step: int = 2  # in which it evaluates the pair style, and not in the next one
    quiet: bool = True  # whether it can do that in a step without output
    replicas: int = 1  # of the crystal along each axis
    accepted: tuple[int, int] | None = None  # values that count moves, tried and accepted


OXYGEN = "group oxygen type 2\n"
CALLERS = {
    "fix atom/swap": Caller(
        "fix c all atom/swap 10 20 4829 2000 types 1 2 ke no",
        ("f_c[1]", "f_c[2]"),
        step=1,
        accepted=(0, 1),
    ),
    "fix neighbor/swap": Caller(
        "compute near all voronoi/atom neighbors yes\n"
        "fix c all neighbor/swap 10 20 4829 30 3.0 near types 1 2",
        ("f_c[1]", "f_c[2]"),
        step=1,
    ),
    "fix mol/swap": Caller(
        "fix c all mol/swap 10 20 1 2 4829 2000 ke no",
        ("f_c[1]", "f_c[2]"),
        atoms="molecular",
        step=1,
    ),
    "fix gcmc full_energy": Caller(
        f"{OXYGEN}fix c oxygen gcmc 10 20 20 2 29494 2000 -0.5 0.3 full_energy",
        ("f_c[1]", "f_c[2]", "f_c[3]", "f_c[4]", "f_c[5]", "f_c[6]", "atoms"),
        step=1,
        accepted=(0, 1),
    ),
    "fix charge/regulation": Caller(
        "fix c all charge/regulation 1 2 nevery 10 nmc 20 seed 1234 temp 3000 pH 7 pKa 5 pKb 5 "
        "pIp 3 pIm 3 acid_type 1 base_type 2",
        ("f_c[1]", "f_c[2]", "f_c[3]", "f_c[4]", "atoms"),
        atoms="charge",
        step=1,
    ),
    "fix widom full_energy": Caller(
        f"{OXYGEN}fix c oxygen widom 10 20 2 29494 300 full_energy", ("f_c[1]", "f_c[2]"), step=1
    ),
    "fix sgcmc": Caller(
        "fix c all sgcmc 2 0.05 2000 0.1 randseed 7",
        ("f_c[1]", "f_c[2]", "f_c[3]", "f_c[4]"),
        replicas=2,
    ),
    "fix numdiff": Caller(
        "fix c all numdiff 2 0.001\ncompute norm all reduce sumsq f_c[1] f_c[2] f_c[3]",
        ("c_norm[1]", "c_norm[2]", "c_norm[3]"),
        quiet=False,
    ),
    "fix numdiff/virial": Caller(
        "fix c all numdiff/virial 2 0.0001", ("f_c[1]", "f_c[2]", "f_c[6]"), quiet=False
    ),
    "compute fep": Caller(
        "variable more equal 0.02\ncompute c all fep 300 pair lj/cut epsilon 1*2 1*2 v_more\n"
        "fix out all ave/time 2 1 2 c_c[1]",
        ("f_out",),
    ),
    "compute fep/ta": Caller(
        "compute c all fep/ta 300 xy 1.0001\nfix out all ave/time 2 1 2 c_c[1]", ("f_out",)
    ),
    "compute born/matrix numdiff": Caller(
        "compute virial all pressure NULL virial\n"
        "compute c all born/matrix numdiff 0.0001 virial\n"
        "fix out all ave/time 2 1 2 c_c[1] c_c[7] c_c[21]",
        ("f_out[1]", "f_out[2]", "f_out[3]"),
    ),
}
PAIR = "pair_coeff * * {0} 0.05 1.8\npair_coeff 1 2 {0} 0.09 1.7\n"
WITH_REFERENCE = (
    "pair_style hybrid/overlay zero 3.5 full lj/cut 3.5\npair_coeff * * zero\n"
    + PAIR.format("lj/cut")
)
PLAIN = "pair_style lj/cut 3.5\n" + PAIR.format("")
STATE = "x y z ix iy iz vx vy vz"


def crystal(directory: Path, atom_style: str, replicas: int) -> str:
    """Write 64 atoms in an orthogonal box; the commands that read them and repeat the box."""
    random = np.random.default_rng(7)
    sites = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    types = 1 + sites.sum(axis=1) % 2
    masses = [28.085, 15.999]
    system = System(
        positions=2.1 * sites + 0.1 * random.normal(size=sites.shape),
        velocities=5e-3 * random.normal(size=sites.shape),
        cell=np.diag([8.4] * 3),
        types=types,
        masses=masses,
        elements=["Si", "O"],
        cutoff=3.5,
    )
    path = directory / f"{atom_style}.data"
    system.write_data(path, "metal")
    header, atoms, after = path.read_text().partition("Atoms # atomic\n\n")
    rows, velocities, rest = after.partition("\nVelocities")
    if atom_style == "charge":
        fields = [row.split(None, 2) for row in rows.splitlines()]
        rows = "\n".join(f"{i} {t} {3 - 2 * int(t)} {x}" for i, t, x in fields) + "\n"
    elif atom_style == "molecular":
        fields = [row.split(None, 2) for row in rows.splitlines()]
        rows = "\n".join(f"{i} {t} {t} {x}" for i, t, x in fields) + "\n"
    path.write_text(header + atoms.replace("atomic", atom_style) + rows + velocities + rest)
    return f"""
units metal
atom_style {atom_style}
atom_modify sort 0 0 map array
read_data {path.name}
replicate {replicas} {replicas} {replicas}
timestep 0.030
thermo 100
"""


def results(output: str, name: str) -> list[float]:
    (line,) = [line for line in output.splitlines() if line.startswith(f"{name}:")]
    return [float(word) for word in line.split()[1:]]


@pytest.mark.parametrize("name", list(CALLERS))
def test_results_are_those_of_plain_lammps(name, lmp, tmp_path, record_property) -> None:
    caller = CALLERS[name]
    tiny_model().save(tmp_path / "tiny.safetensors")
    start = crystal(tmp_path, caller.atoms, caller.replicas)
    steps = caller.step
    model = "fix 1 all python/trajcast tiny.safetensors Si O energy lj/cut guard off"
    values = " ".join(f"$({value}:%.15g)" for value in caller.values)
    dump = f"id {STATE} modify sort id format float %.17g"
    script = ""
    for label, between in (
        ("after", f"{model}\n{caller.commands}"),
        ("before", f"{caller.commands}\n{model}"),
        ("output", f"{model}\n{caller.commands}\nthermo 1"),
    ):
        # One step more, so that nothing else asks for the energy of the step that counts.
        script += f"{start}{WITH_REFERENCE}{between}\n"
        script += f"run {steps + (caller.quiet and label != 'output')}\n"
        script += f'print "{label}: {values}"\nclear\n'
    script += f"""
{start}{WITH_REFERENCE}{model}
run {steps}
write_dump all custom state.dump {dump}
clear
{start}{PLAIN}
read_dump state.dump {steps} {STATE}
reset_timestep 0
{caller.commands}
run {steps}
print "plain: {values}"
"""
    run = lmp(script)
    assert run.returncode == 0, run.output
    plain = results(run.output, "plain")
    assert np.abs(plain).max() > 0
    if caller.accepted is not None:  # some moves are and some are not
        tried, accepted = (plain[k] for k in caller.accepted)
        assert 0 < accepted < tried
    for label in ("after", "before", "output"):
        assert results(run.output, label) == pytest.approx(plain, rel=1e-6), label
    energy(
        record_property,
        name,
        f"plain LAMMPS, in a step {'without' if caller.quiet else 'with'} output; defined before "
        "and after the fix; output in each step",
    )


@pytest.mark.parametrize("name", list(CALLERS))
def test_zero_energy_is_refused(name, lmp, tmp_path, record_property) -> None:
    """With pair_style zero every change of the energy is zero."""
    if name == "compute fep":
        pytest.skip("LAMMPS finds no parameter of pair_style zero that it could change")
    caller = CALLERS[name]
    tiny_model().save(tmp_path / "tiny.safetensors")
    run = lmp(f"""
{crystal(tmp_path, caller.atoms, caller.replicas)}
pair_style zero 3.5 full
pair_coeff * *
fix 1 all python/trajcast tiny.safetensors Si O guard off
{caller.commands}
run 1
""")
    assert run.returncode != 0
    kind, style = name.split()[:2]
    says = f"{kind} c (style {style}) needs a potential energy, which the network does not have"
    assert says in run.error() and "energy PAIR" in run.error()
    wrong_input(record_property, f"{kind} {style} with pair_style zero", says)
