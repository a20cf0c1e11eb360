"""An ASE calculator as the potential of a LAMMPS run, for `pair_style python/ase`."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import FileIOCalculator, PropertyNotImplementedError
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray

from lammps_trajcast.runtime.process_settings import ProcessSettings
from lammps_trajcast.units import LAMMPS_ORDER

Array = NDArray[np.float64]

NUMBER_OF = {symbol: number for number, symbol in enumerate(chemical_symbols) if number > 0}
WORDS = {"true": True, "false": False, "none": None}
# Relative difference of stresses of atoms that add up to the stress.
SAME_STRESS = 1e-6


class CalculatorError(Exception):
    """A calculator that cannot be made or does not answer; the message says what is wrong."""


@dataclass(frozen=True)
class Calculation:
    """What a calculator has found for N atoms.

    Attributes:
        energy: eV; the one whose derivatives the forces are, where the calculator tells them
            apart.
        forces: (N, 3) eV/Angstrom.
        virial: (6,) eV, xx, yy, zz, xy, xz, yz: minus the derivative of the energy with respect to
            the strain.
        atom_energies: (N,) eV.
        atom_virials: (N, 6) eV, in the order of `virial`, whose sum is `virial`.
        evaluations: of the calculator since it was made.
    """

    energy: float
    forces: Array
    virial: Array | None
    atom_energies: Array | None
    atom_virials: Array | None
    evaluations: int


class Calculator:
    """A calculator, made once, and its atoms."""

    def __init__(
        self,
        name: str,
        options: Sequence[tuple[str, str]] = (),
        directories: Sequence[str] = (),
        alone: bool = True,
    ) -> None:
        """Import the callable and call it.

        Args:
            name: MODULE:CALLABLE, or FILE.py:CALLABLE.
            options: keyword arguments of the callable, as they stand in an input script.
            directories: looked into for modules and files before Python's own.
            alone: whether this is the only MPI rank.

        Raises:
            CalculatorError: the callable cannot be imported, fails, or does not return a
                calculator of ASE.
        """
        self.name = name
        self._settings = ProcessSettings(directories, alone)
        self._evaluations = 0
        self._atoms: Atoms | None = None
        self._force_consistent = True
        self._has_stress = True
        arguments: dict[str, Any] = {}
        for key, word in options:
            if not key.isidentifier():
                raise CalculatorError(
                    f"'{key}' cannot be the name of an argument of {name}: write 'key value' pairs "
                    "after it"
                )
            if key in arguments:
                raise CalculatorError(f"the key '{key}' is given twice: write it once")
            arguments[key] = value_of(word)
        with self._settings.active():
            function = _find(name, directories)
            try:
                self._calculator = function(**arguments)
            except BaseException as error:
                raise CalculatorError(
                    f"{name} failed to make a calculator: {describe(error)}"
                ) from error
        self._check(function, arguments)

    def _check(self, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        made = self._calculator
        if inspect.isclass(made) or not hasattr(made, "get_forces"):
            raise CalculatorError(
                f"{self.name} returned {_a(type(made).__name__)}, which is no ASE calculator: "
                "write a class of calculators, or a function that returns a calculator"
            )
        # ASE's calculators keep whatever they are given, misspelled or not.
        known = getattr(made, "default_parameters", {})
        if not known or isinstance(made, FileIOCalculator):
            return
        named = _named_parameters(function)
        for key in arguments:
            if key not in known and key not in named and key in getattr(made, "parameters", {}):
                raise CalculatorError(
                    f"{self.name} knows no '{key}': write one of {', '.join(sorted(known))}"
                )

    # ---- a calculation ---------------------------------------------------------------------------

    def calculate(
        self,
        ids: NDArray[np.int64],
        numbers: NDArray[np.int32],
        positions: Array,
        cell: Array,
        periodic: NDArray[np.bool_],
        *,
        virial: bool = False,
        virial_needed: bool = True,
        atom_energies: bool = False,
        atom_virials: bool = False,
    ) -> Calculation:
        """Energy, forces and what else is wanted, of N atoms.

        Args:
            ids: (N,) for messages.
            numbers: (N,) atomic numbers.
            positions: (N, 3) Angstrom.
            cell: (3, 3) Angstrom, rows are the lattice vectors.
            periodic: (3,).
            virial: whether the virial of all atoms is wanted.
            virial_needed: whether it is an error if the calculator has no stress; else the virial
                is not a number.
            atom_energies: whether the energy of each atom is wanted.
            atom_virials: whether the virial of each atom is wanted.

        Raises:
            CalculatorError: the calculator failed, lacks what is wanted, or returned something of
                a wrong shape or not finite.
        """
        atoms = self._set(numbers, positions, cell, periodic)
        with self._settings.active():
            try:
                found = self._ask(atoms, virial, virial_needed, atom_energies, atom_virials)
            except CalculatorError:
                raise
            except BaseException as error:
                raise CalculatorError(f"{self.name} failed: {describe(error)}") from error
        self._check_finite(found, ids)
        return found

    def _set(
        self, numbers: NDArray[np.int32], positions: Array, cell: Array, periodic: NDArray[np.bool_]
    ) -> Atoms:
        atoms = self._atoms
        if atoms is None or not np.array_equal(atoms.numbers, numbers):
            atoms = self._atoms = Atoms(numbers=numbers, positions=positions)
            atoms.calc = self._calculator
        atoms.positions[:] = positions
        atoms.cell[:] = cell
        atoms.pbc[:] = periodic
        return atoms

    def _ask(
        self,
        atoms: Atoms,
        virial: bool,
        virial_needed: bool,
        atom_energies: bool,
        atom_virials: bool,
    ) -> Calculation:
        # What takes most work comes first: calculators keep what they have found with it.
        open_everywhere = not atoms.pbc.any()
        stress = stresses = energies = None
        if virial and (atom_virials or not open_everywhere):
            stress = self._stress(atoms, virial_needed)
        if atom_virials:
            stresses = self._stresses(atoms)
        if atom_energies:
            energies = self._energies(atoms)
        try:
            forces = _array(atoms.get_forces(apply_constraint=False), (len(atoms), 3), "forces")
            energy = self._energy(atoms)
        except PropertyNotImplementedError as error:
            raise CalculatorError(
                f"{self.name} has no {error}, without which there is no dynamics: write the name "
                "of a calculator that has energies and forces"
            ) from None
        self._evaluations += 1

        volume = atoms.cell.volume
        atoms_virial = None
        if stress is not None and stresses is not None:
            atoms_virial = -volume * self._shares(stress, stresses)[:, LAMMPS_ORDER]
        total: Array | None = None
        if virial and open_everywhere:
            # Exact for an energy that translations do not change, whatever the box is.
            total = _symmetric(atoms.positions.T @ forces)
        elif stress is not None:
            total = -volume * stress[LAMMPS_ORDER]
        elif virial:
            total = np.full(6, np.nan)
        return Calculation(energy, forces, total, energies, atoms_virial, self._evaluations)

    def _energy(self, atoms: Atoms) -> float:
        if self._force_consistent:
            try:
                return float(atoms.get_potential_energy(force_consistent=True))
            except (PropertyNotImplementedError, TypeError):
                self._force_consistent = False
        return float(atoms.get_potential_energy())

    def _stress(self, atoms: Atoms, needed: bool) -> Array | None:
        """The stress; None if there is none and it is not needed."""
        if not (needed or self._has_stress):
            return None
        try:
            return _array(atoms.get_stress(voigt=True, apply_constraint=False), (6,), "stress")
        except NotImplementedError as error:
            if not isinstance(error, PropertyNotImplementedError):
                _raise_unless_forces(atoms, error)
            self._has_stress = False
        if not needed:
            return None
        raise CalculatorError(
            f"{self.name} has no stress, which the pressure is computed from: write "
            "'thermo_style custom step temp pe etotal' before 'run', and no command that needs a "
            "pressure or virial"
        )

    def _stresses(self, atoms: Atoms) -> Array:
        try:
            return _array(self._calculator.get_stresses(atoms), (len(atoms), 6), "stresses")
        except (NotImplementedError, AttributeError):
            raise CalculatorError(
                f"{self.name} has no stresses of atoms, which a compute asks for (stress/atom, "
                "heat/flux): write the script without it"
            ) from None

    def _energies(self, atoms: Atoms) -> Array:
        try:
            return _array(atoms.get_potential_energies(), (len(atoms),), "energies")
        except (NotImplementedError, AttributeError):
            raise CalculatorError(
                f"{self.name} has no energies of atoms, which a compute asks for (pe/atom): write "
                "the script without it"
            ) from None

    def _shares(self, stress: Array, stresses: Array) -> Array:
        """The stresses of atoms as parts of the stress.

        ASE does not say whether they add up to it or are that of each atom's own volume.
        """
        size = max(float(np.abs(stress).max()), float(np.abs(stresses).max()))
        for parts in (stresses, stresses / len(stresses)):
            if np.abs(parts.sum(axis=0) - stress).max() <= SAME_STRESS * size:
                return parts
        raise CalculatorError(
            f"the stresses of atoms that {self.name} gives do not add up to the stress: write the "
            "script without compute stress/atom"
        )

    def _check_finite(self, found: Calculation, ids: NDArray[np.int64]) -> None:
        if not np.isfinite(found.forces).all():
            wrong = int(np.flatnonzero(~np.isfinite(found.forces).all(axis=1))[0])
            raise CalculatorError(
                f"the force that {self.name} gives for atom {ids[wrong]} is not a finite number: "
                "check the state for atoms that nearly touch, and the time step"
            )
        others = {
            "energy": found.energy,
            "stress": found.virial if self._has_stress else None,
            "energies of atoms": found.atom_energies,
            "stresses of atoms": found.atom_virials,
        }
        for name, values in others.items():
            if values is not None and not np.isfinite(values).all():
                raise CalculatorError(
                    f"the {name} that {self.name} gives: not a finite number; check the state for "
                    "atoms that nearly touch, and the time step"
                )


def atomic_numbers(symbols: Sequence[str]) -> list[int]:
    """Atomic numbers of chemical symbols; 0 for NULL, atoms that the calculator does not get.

    Raises:
        CalculatorError: a name is not that of an element.
    """
    for symbol in symbols:
        if symbol != "NULL" and NUMBER_OF.get(symbol, 0) == 0:
            raise CalculatorError(
                f"'{symbol}' is not a chemical element: write one symbol for each atom type, e.g. "
                "'pair_coeff * * Si O', or NULL for types of another sub-style of pair_style hybrid"
            )
    return [NUMBER_OF.get(symbol, 0) for symbol in symbols]


def value_of(word: str) -> Any:
    """The Python value of a word of an input script.

    Numbers, true and false, none, texts in quotes, lists, tuples and dictionaries of such as in
    Python; anything else is a text as it stands.
    """
    if word.lower() in WORDS:
        return WORDS[word.lower()]
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return word


def describe(error: BaseException) -> str:
    """An exception in one line, with the place in a file where it was raised."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    said = f"{name}: {text}" if text else name
    # Not the frames of this module and of bridges: those of the calculator's own code.
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).parent != Path(__file__).parent
    ]
    if not frames:
        return said
    return f"{said} ({frames[-1].filename}, line {frames[-1].lineno})"


# ---- the callable ------------------------------------------------------------------------------


def _find(name: str, directories: Sequence[str]) -> Callable[..., Any]:
    module_name, colon, path = name.rpartition(":")
    if not (colon and module_name and path):
        raise CalculatorError(
            f"'{name}' names no calculator: write MODULE:CALLABLE, e.g. ase.calculators.emt:EMT"
        )
    found = (_load if module_name.endswith(".py") else _import)(module_name, directories)
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise CalculatorError(
                f"{module_name} has no '{path}': write MODULE:CALLABLE with a class or function of "
                "that module"
            ) from None
    if not callable(found):
        raise CalculatorError(
            f"{name} is {_a(type(found).__name__)}: write the name of a class of calculators, or "
            "of a function that returns a calculator"
        )
    return found  # type: ignore[no-any-return]


def _import(name: str, directories: Sequence[str]) -> Any:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        absent = error.name or name
        if name != absent and not name.startswith(absent + "."):
            raise CalculatorError(f"{name} cannot be imported: {describe(error)}") from error
        raise CalculatorError(
            f"there is no Python module '{absent}', neither in {', '.join(directories)} nor in "
            f"the Python of {sys.prefix}: install it there, or write the name of another"
        ) from None
    except BaseException as error:
        raise CalculatorError(f"{name} cannot be imported: {describe(error)}") from error


def _load(name: str, directories: Sequence[str]) -> Any:
    places = [Path(directory) / name for directory in directories] or [Path(name)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise CalculatorError(
            f"there is no file {name} in {', '.join(directories)}: write the path of another"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Where pickles and dataclasses look for it.
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        raise CalculatorError(f"{path} cannot be imported: {describe(error)}") from error
    return module


def _named_parameters(function: Callable[..., Any]) -> set[str]:
    """Names of all parameters of a callable; of a class, those of its base classes, too."""
    functions: list[Any] = [function]
    if inspect.isclass(function):
        members = [vars(kind) for kind in function.__mro__]
        functions = [own["__init__"] for own in members if "__init__" in own]
    named: set[str] = set()
    for one in functions:
        try:
            named.update(inspect.signature(one).parameters)
        except (ValueError, TypeError):
            continue
    return named


def _raise_unless_forces(atoms: Atoms, error: NotImplementedError) -> None:
    """Find out what is not implemented: the stress, or anything for such atoms."""
    try:
        atoms.get_forces()
    except Exception:
        raise error from None


# ---- arrays ------------------------------------------------------------------------------------


def _array(values: ArrayLike, shape: tuple[int, ...], name: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise CalculatorError(
            f"the {name} that the calculator gives have the shape {array.shape} instead of {shape}"
        )
    return array


def _symmetric(tensor: Array) -> Array:
    """xx, yy, zz, xy, xz, yz of a tensor (3, 3), symmetrized."""
    whole = 0.5 * (tensor + tensor.T)
    return whole[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiouAEIOU' else 'a'} {noun}"
