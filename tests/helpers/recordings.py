"""A system to record, for several tests."""

from __future__ import annotations

from lammps_trajcast.recording.options import RecordOptions

# A crystal of Lennard-Jones argon in a skewed cell: any pair style will do, and this one is fast.
SYSTEM = """
units metal
atom_style atomic
lattice fcc 5.3
region box prism 0 3 0 3 0 3 0.5 0 0.2
create_box 2 box
create_atoms 1 box
set type 1 type/fraction 2 0.5 12
mass 1 39.95
mass 2 20.18
pair_style lj/cut 8.0
pair_coeff * * 0.0104 3.4
timestep 0.002
"""

SCRIPT = f"""{SYSTEM}
variable T index 20
variable seed index 815
velocity all create $(2*v_T) 4711
fix integrate all nve
fix bath all langevin $T $T &
    0.05 ${{seed}} zero yes
fix averages all ave/time 5 2 10 c_thermo_temp file averages.dat
dump mine all atom 7 mine.dump
restart 50 argon.*.restart
run 103
"""

OPTIONS = RecordOptions(
    horizon=20.0,
    elements=["Ar", "Ne"],
    temperatures=[20.0, 60.0],
    segments=4,
    segment_length=0.2,
    decorrelate=0.1,
    segments_per_shard=2,
    split=(0.5, 0.25, 0.25),
    variables={"seed": "99"},
)


def changed(**changes: object) -> RecordOptions:
    return RecordOptions(**{**OPTIONS.__dict__, **changes})  # type: ignore[arg-type]
