"""Observables of the validation against analytic results."""

from __future__ import annotations

import ase.build
import ase.geometry
import numpy as np
import pytest

from lammps_trajcast.analysis.blocks import Blocks
from lammps_trajcast.analysis.dynamics import (
    cosine_similarity,
    diffusion_constant,
    first_peak,
    linear_drift,
    mean_square_displacement,
    spectral_peaks,
    vibrational_spectrum,
)
from lammps_trajcast.analysis.structure import (
    bond_angles,
    bond_distributions,
    dihedral_distribution,
    find_bonds,
    radial_distributions,
)
from lammps_trajcast.analysis.thermal import (
    canonical_fluctuation,
    degrees_of_freedom,
    kinetic_temperatures,
    long_waves,
    wave_temperatures,
)
from lammps_trajcast.units import BOLTZMANN_PER_MASS

TRICLINIC = np.array([[9.0, 0.0, 0.0], [-3.0, 8.0, 0.0], [1.0, 2.0, 7.0]])


def test_rdf_of_an_ideal_gas_is_one() -> None:
    random = np.random.default_rng(1)
    species = np.repeat([0, 1], [60, 30])
    frames = [random.uniform(size=(90, 3)) @ TRICLINIC for _ in range(300)]
    # Farther than half the cell, where an atom sees images of itself too.
    g = radial_distributions(frames, TRICLINIC, species, ["A", "B"], 6.0, 0.5)
    assert list(g) == ["A-A", "A-B", "B-B"]
    same = {"A-A": 59 / 60, "A-B": 1.0, "B-B": 29 / 30}
    for pair, curve in g.items():
        # Others are spread evenly; the images of the atom itself are the rest of the density.
        assert curve.y[3:6] == pytest.approx(same[pair], abs=0.03)
        assert np.mean(curve.y[1:]) == pytest.approx(1.0, abs=0.05)


def test_rdf_of_a_crystal_counts_its_shells() -> None:
    atoms = ase.build.bulk("Cu", "fcc", a=3.6, cubic=True)
    g = radial_distributions(
        [atoms.positions + 50.0], atoms.cell.array, np.zeros(4, dtype=np.int64), ["Cu"], 4.2, 0.1
    )["Cu-Cu"]
    width = g.x[1] - g.x[0]
    edges = np.arange(len(g.x) + 1) * width
    shell = 4.0 / 3.0 * np.pi * np.diff(edges**3) * 4.0 / 3.6**3
    numbers = g.y * shell
    assert np.round(numbers[numbers > 0.1], 6).tolist() == [12.0, 6.0]
    assert g.x[numbers > 0.1] == pytest.approx([3.6 / np.sqrt(2.0), 3.6], abs=width)


def test_bonds_and_angles_of_water() -> None:
    """Two molecules of known geometry, one across the border of the cell."""
    half = np.radians(104.5 / 2.0)
    molecule = 0.97 * np.array(
        [[0.0, 0.0, 0.0], [np.sin(half), np.cos(half), 0.0], [-np.sin(half), np.cos(half), 0.0]]
    )
    positions = np.concatenate([molecule + 4.0, molecule + [0.1, 0.1, 0.1]])
    cell, pbc = 8.0 * np.eye(3), np.ones(3, dtype=bool)
    positions[3:] = ase.geometry.wrap_positions(positions[3:], cell)
    species = np.array([1, 0, 0, 1, 0, 0])
    bonds = find_bonds(positions, cell, pbc, species, {(0, 1): 1.2})
    assert bonds.degrees(6).tolist() == [2, 1, 1, 2, 1, 1]
    assert bonds.lengths == pytest.approx(0.97)
    triples, angles = bond_angles(bonds)
    assert angles == pytest.approx(104.5)
    assert sorted(triples[:, 1]) == [0, 3]
    lengths, of_angles = bond_distributions([bonds], species, ["H", "O"], {(0, 1): 1.2})
    assert list(lengths) == ["H-O"] and list(of_angles) == ["H-O-H"]
    top = np.argmax(of_angles["H-O-H"].y)
    assert of_angles["H-O-H"].x[top] == pytest.approx(104.5, abs=1.0)
    assert np.sum(of_angles["H-O-H"].y) * 2.0 == pytest.approx(1.0)
    # A cutoff between elements that are not there, and one that is too short, find nothing.
    assert len(find_bonds(positions, cell, pbc, species, {(0, 0): 1.2}).center) == 0


def test_angles_of_many_bonds_are_those_of_all_pairs() -> None:
    atoms = ase.build.bulk("Cu", "fcc", a=3.6, cubic=True)
    bonds = find_bonds(
        atoms.positions,
        atoms.cell.array,
        np.ones(3, dtype=bool),
        np.zeros(4, dtype=np.int64),
        {(0, 0): 3.0},
    )
    triples, angles = bond_angles(bonds)
    assert len(triples) == 4 * 12 * 11 / 2
    found, counts = np.unique(np.round(angles, 6), return_counts=True)
    # Angles between the twelve nearest neighbors of an fcc crystal.
    assert found.tolist() == [60.0, 90.0, 120.0, 180.0]
    assert counts.tolist() == [4 * 24, 4 * 12, 4 * 24, 4 * 6]


def test_dihedral_follows_a_rotation() -> None:
    turns = np.radians([-175.0, -60.0, -60.0, 65.0])
    frames = np.array(
        [
            [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.5], [np.cos(t), np.sin(t), 1.5]]
            for t in turns
        ]
    )
    density = dihedral_distribution(frames, np.eye(3), np.zeros(3, dtype=bool), (0, 1, 2, 3))
    places = density.x[density.y > 0.0]
    expected = [ase.geometry.get_dihedrals(*np.diff(f, axis=0)[:, None])[0] for f in frames]
    wrapped = (np.array(expected) + 180.0) % 360.0 - 180.0
    assert sorted(np.abs(np.round(np.degrees(turns)))) == sorted(np.abs(np.round(wrapped)))
    assert len(places) == 3 and density.y.max() == pytest.approx(0.5 / 10.0)
    assert np.sum(density.y) * 10.0 == pytest.approx(1.0)


def test_spectrum_of_harmonic_oscillators() -> None:
    """Oscillators have peaks at their frequencies, with their kinetic energies as weights.

    Two lie below half the sampling rate; a third, above it, is folded back.
    """
    random = np.random.default_rng(2)
    interval, nyquist = 10.0, 50.0
    times = interval * np.arange(4000)
    frequencies = np.array([8.0, 20.0, 70.0])
    phases = random.uniform(0.0, 2.0 * np.pi, size=(3, 40, 3))
    masses = np.repeat([1.0, 16.0, 2.0], 40)
    # Equipartition: m <v^2> is the same for all.
    amplitude = 1.0 / np.sqrt(masses.reshape(3, 40))
    angle = 2e-3 * np.pi * frequencies[:, None, None, None] * times + phases[..., None]
    velocities = amplitude[..., None, None] * np.cos(angle)
    velocities = np.moveaxis(velocities.reshape(120, 3, -1), 2, 0)
    x, y = vibrational_spectrum(velocities, masses, interval, 0.25)
    assert x[-1] == pytest.approx(nyquist)
    assert np.sum(y) * x[1] == pytest.approx(1.0)
    assert spectral_peaks(x, y, 0.2) == pytest.approx([8.0, 20.0, 100.0 - 70.0], abs=0.25)
    for center in (8.0, 20.0, 30.0):
        near = np.abs(x - center) < 2.0
        assert np.sum(y[near]) * x[1] == pytest.approx(1.0 / 3.0, rel=0.02)
    assert cosine_similarity(y, 3.0 * y) == pytest.approx(1.0)
    assert cosine_similarity(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 0.0


def test_diffusion_of_a_brownian_walk() -> None:
    random = np.random.default_rng(3)
    interval, constant = 20.0, 2.3  # fs, 1e-9 m^2/s
    variance = 2.0 * constant * 1e-4 * interval  # per step and direction; 1e-9 m^2/s in A^2/fs
    steps = random.normal(scale=np.sqrt(variance), size=(2000, 400, 3))
    positions = np.cumsum(steps, axis=0) + 1e3
    msd = mean_square_displacement(positions)
    lags = interval * np.arange(len(msd))
    assert msd[0] == pytest.approx(0.0, abs=1e-9)
    assert msd[1] == pytest.approx(np.mean(np.sum(steps[1:] ** 2, axis=2)))
    assert diffusion_constant(lags, msd, (0.2, 2.0)) == pytest.approx(constant, rel=0.03)
    with pytest.raises(ValueError, match="no mean-square displacement"):
        diffusion_constant(lags, msd, (200.0, 300.0))


@pytest.mark.parametrize("angular", [False, True])
def test_canonical_temperatures(angular: bool) -> None:
    """Momenta drawn canonically, then freed of what is fixed: equipartition in every group."""
    random = np.random.default_rng(4)
    positions = random.normal(size=(9, 3)) * [3.0, 2.0, 1.0]
    masses = np.array([1.0, 1.0, 1.0, 12.0, 12.0, 16.0, 14.0, 1.0, 200.0])
    temperature, frames = 300.0, 20000
    velocities = random.normal(size=(frames, 9, 3)) * np.sqrt(
        BOLTZMANN_PER_MASS * temperature / masses[:, None]
    )
    velocities -= np.einsum("n,fnc->fc", masses, velocities)[:, None] / masses.sum()
    if angular:
        arm = positions - masses @ positions / masses.sum()
        inertia = np.einsum("n,nk,nk->", masses, arm, arm) * np.eye(3) - np.einsum(
            "n,ni,nj->ij", masses, arm, arm
        )
        momentum = np.cross(arm[None], masses[:, None] * velocities).sum(axis=1)
        turning = np.linalg.solve(inertia, momentum.T).T
        velocities -= np.cross(turning[:, None], arm[None])
    shares = degrees_of_freedom(masses, positions if angular else None)
    assert shares.sum() == pytest.approx(27 - (6 if angular else 3))
    for atoms in (np.arange(9), np.array([3]), np.array([0, 1, 2, 7]), np.array([8])):
        of_group = kinetic_temperatures(velocities[:, atoms], masses[atoms], shares[atoms])
        assert of_group.mean() == pytest.approx(temperature, rel=0.02)
        if len(atoms) == 9:
            expected = canonical_fluctuation(temperature, shares)
            assert of_group.std() == pytest.approx(expected, rel=0.03)


def test_long_waves_of_cells() -> None:
    """Those of a cube are known; of a cell in other vectors of its lattice they are the same."""
    cube = 12.0 * np.eye(3)
    multiples, lengths = long_waves(cube, 0.49)
    # |n|^2 = 1, 2, 3, 4: 6, 12, 8 and 6 wave vectors, of each pair one.
    expected = 12.0 / np.sqrt(np.repeat([1.0, 2.0, 3.0, 4.0], [3, 6, 4, 3]))
    np.testing.assert_allclose(lengths, expected)
    assert len(np.unique([*multiples, *-multiples], axis=0)) == 32
    for cell in (cube, TRICLINIC):
        skewed = np.array([[1, 0, 0], [3, 1, 0], [-2, 4, 1]]) @ cell
        found = [np.sort(long_waves(each, 0.4)[1]) for each in (cell, skewed)]
        np.testing.assert_allclose(*found)


def test_temperatures_of_waves() -> None:
    """Momenta drawn canonically have equipartition in every wave; one alone has its energy."""
    random = np.random.default_rng(5)
    masses = np.array([1.0, 16.0, 28.0, 200.0, 40.0])
    temperature, frames = 300.0, 20000
    positions = random.uniform(size=(frames, 5, 3)) @ TRICLINIC
    velocities = random.normal(size=(frames, 5, 3)) * np.sqrt(
        BOLTZMANN_PER_MASS * temperature / masses[:, None]
    )
    velocities -= np.einsum("n,fnc->fc", masses, velocities)[:, None] / masses.sum()
    multiples, _ = long_waves(TRICLINIC, 0.4)
    energies, shares = wave_temperatures(positions, velocities, masses, TRICLINIC, multiples)
    found = energies.sum(axis=0) / shares.sum(axis=0)
    # 6 degrees of freedom, each energy with a relative variance of 2; four standard errors.
    np.testing.assert_allclose(found, temperature, rtol=4.0 * np.sqrt(2.0 / (6.0 * frames)))

    cell = 12.0 * np.eye(3)
    grid = np.stack(np.meshgrid(*3 * [np.arange(0.0, 12.0, 3.0)]), axis=-1).reshape(1, -1, 3)
    wave = np.zeros_like(grid)
    wave[..., 1] = 1e-3 * np.cos(2.0 * np.pi * (grid[..., 0] + grid[..., 2]) / 12.0)
    multiples, _ = long_waves(cell, 0.49)
    energies, shares = wave_temperatures(grid, wave, np.full(64, 20.0), cell, multiples)
    mine = np.all(np.abs(multiples) == [1, 0, 1], axis=1) & (multiples[:, 0] == multiples[:, 2])
    # All of sum m v^2 is in k and -k, a half of it in each, over the mass.
    kinetic = 20.0 * np.sum(wave**2) / BOLTZMANN_PER_MASS
    np.testing.assert_allclose(energies[0, mine], kinetic / 2.0 * 20.0 * 64)
    np.testing.assert_allclose(energies[0, ~mine], 0.0, atol=1e-9 * kinetic)
    np.testing.assert_allclose(shares, 3.0 * 20.0 * 64)


def test_a_linear_molecule_has_two_rotations() -> None:
    positions = np.array([[0.0, 0.0, -1.16], [0.0, 0.0, 0.0], [0.0, 0.0, 1.16]])
    assert degrees_of_freedom(np.array([16.0, 12.0, 16.0]), positions).sum() == pytest.approx(4.0)


def test_first_peak_is_finer_than_the_bins() -> None:
    x = np.arange(0.01, 6.0, 0.02)
    for center in (1.613, 1.62, 1.6285):
        y = 30.0 * np.exp(-0.5 * ((x - center) / 0.05) ** 2) + 9.0 * np.exp(-((x - 4.0) ** 2))
        assert first_peak(x, y) == pytest.approx(center, abs=1e-3)
    assert np.isnan(first_peak(x, np.zeros_like(x)))


def test_drift() -> None:
    times = np.linspace(0.0, 5.0, 50)
    assert linear_drift(times, 3.0 - 0.25 * times) == pytest.approx(-0.25)


def test_blocks_of_noise() -> None:
    random = np.random.default_rng(5)
    blocks = Blocks(7.0 + random.normal(size=(400, 50)))
    assert blocks.mean == pytest.approx(7.0, abs=0.3)
    assert blocks.spread.mean() == pytest.approx(1.0, rel=0.02)
    assert blocks.error == pytest.approx(blocks.spread / 20.0)
    # |block - mean of the others| is half normal with variance 1 + 1/399.
    expected = 50.0 * np.sqrt(2.0 / np.pi * (1.0 + 1.0 / 399.0))
    assert blocks.own_distance() == pytest.approx(expected, rel=0.02)
    assert blocks.distance(np.full(50, 9.0), scale=50.0) == pytest.approx(2.0, rel=0.02)
    assert Blocks(np.ones((1, 3))).own_distance() == 0.0
