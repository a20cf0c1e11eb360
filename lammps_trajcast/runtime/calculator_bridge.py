"""The bodies of the functions for calculators in `fix_src/trajcast_bridge.h`.

Nothing is decided here: pointers become NumPy views, exceptions become messages.
"""

from collections.abc import Callable
from typing import Any

from lammps_trajcast.warning_filters import not_fatal

with not_fatal():
    import numpy as np

    from lammps_trajcast.runtime.ase_calculator import (
        Calculator,
        CalculatorError,
        atomic_numbers,
        describe,
    )
    from lammps_trajcast.runtime.ffi_bridge import FAILED, OK, FfiBridge


class CalculatorBridge(FfiBridge):
    """The calculators that the pair styles of this process have made."""

    def __init__(self, ffi: Any) -> None:
        """Use the `ffi` object of the compiled bridge, or any that knows its structures."""
        super().__init__(ffi)
        self._calculators: dict[int, Calculator] = {}
        self._next_handle = 1

    def open(self, config: Any, handle: Any, message: Any) -> int:
        """Body of `trajcast_calculator_functions.calculator_open`."""

        def make() -> None:
            options = [
                (self._text(config.keys[k]), self._text(config.values[k]))
                for k in range(config.num_options)
            ]
            directories = [self._text(config.directories[k]) for k in range(config.num_directories)]
            calculator = Calculator(
                self._text(config.callable), options, directories, alone=config.num_ranks == 1
            )
            handle[0] = self._next_handle
            self._calculators[self._next_handle] = calculator
            self._next_handle += 1

        return self._reporting_errors(make, message)

    def atomic_numbers(self, count: int, symbols: Any, numbers: Any, message: Any) -> int:
        """Body of `trajcast_calculator_functions.atomic_numbers`."""

        def look_up() -> None:
            names = [self._text(symbols[k]) for k in range(count)]
            self._view(numbers, (count,), np.int32)[:] = atomic_numbers(names)

        return self._reporting_errors(look_up, message)

    def calculate(self, handle: int, atoms: Any, calculation: Any, message: Any) -> int:
        """Body of `trajcast_calculator_functions.calculate`."""

        def calculate() -> None:
            n = atoms.num_atoms
            wants_energies = calculation.atom_energies != self._ffi.NULL
            found = self._calculators[handle].calculate(
                ids=self._view(atoms.ids, (n,), np.int64),
                numbers=self._view(atoms.numbers, (n,), np.int32),
                positions=self._view(atoms.positions, (n, 3), np.float64),
                cell=self._view(atoms.cell, (3, 3), np.float64),
                periodic=self._view(atoms.periodic, (3,), np.int32) != 0,
                virial=calculation.wants_virial >= 1,
                virial_needed=calculation.wants_virial >= 2,
                atom_energies=wants_energies,
                atom_virials=bool(calculation.wants_atom_virials),
            )
            calculation.energy = found.energy
            self._view(calculation.forces, (n, 3), np.float64)[:] = found.forces
            if found.atom_energies is not None:
                self._view(calculation.atom_energies, (n,), np.float64)[:] = found.atom_energies
            if found.virial is not None:
                self._view(calculation.virial, (6,), np.float64)[:] = found.virial
            if found.atom_virials is not None:
                self._view(calculation.atom_virials, (n, 6), np.float64)[:] = found.atom_virials
            calculation.evaluations = found.evaluations

        return self._reporting_errors(calculate, message)

    def close(self, handle: int, message: Any) -> int:
        """Body of `trajcast_calculator_functions.calculator_close`."""
        return self._reporting_errors(lambda: self._forget(handle), message)

    def _forget(self, handle: int) -> None:
        self._calculators.pop(handle, None)

    def _reporting_errors(self, work: Callable[[], None], message: Any) -> int:
        try:
            with not_fatal():
                work()
        except CalculatorError as error:
            self._write(str(error), message)
            return FAILED
        except BaseException as error:  # nothing may pass into C++
            self._write(f"unexpected {describe(error)}", message)
            return FAILED
        return OK


_bridge: CalculatorBridge | None = None


def register(address: int) -> None:
    """Fill the `trajcast_calculator_functions` at this address; called from C++."""
    from lammps_trajcast._trajcast_bridge import ffi, lib

    global _bridge
    if _bridge is None:
        _bridge = CalculatorBridge(ffi)
        ffi.def_extern(name="trajcast_calculator_open", error=FAILED)(_bridge.open)
        ffi.def_extern(name="trajcast_atomic_numbers", error=FAILED)(_bridge.atomic_numbers)
        ffi.def_extern(name="trajcast_calculate", error=FAILED)(_bridge.calculate)
        ffi.def_extern(name="trajcast_calculator_close", error=FAILED)(_bridge.close)
    functions = ffi.cast("trajcast_calculator_functions *", address)
    functions.calculator_open = lib.trajcast_calculator_open
    functions.atomic_numbers = lib.trajcast_atomic_numbers
    functions.calculate = lib.trajcast_calculate
    functions.calculator_close = lib.trajcast_calculator_close
