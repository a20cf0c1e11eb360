"""One time step of a trained network, NumPy in and NumPy out: what the LAMMPS fix runs."""

import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.kernels.energy import EnergyKernel
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.model.limits import Limits
from lammps_trajcast.runtime.backend import StepArrays
from lammps_trajcast.runtime.errors import PredictorError, StepError
from lammps_trajcast.runtime.halo import Halo, MpiHalo
from lammps_trajcast.runtime.layers import Attempt, Layers, Nodes
from lammps_trajcast.runtime.memory import Matrix
from lammps_trajcast.runtime.momentum import Array, MomentumLayer, Motion, Start
from lammps_trajcast.runtime.open_backend import open_backend
from lammps_trajcast.units import ENERGY_IN_KCAL, TIME_IN_FS

if TYPE_CHECKING:
    from mpi4py import MPI

    from lammps_trajcast.runtime.resident import ResidentStep


# What is not a number is found by the fix, whatever the host of this Python wants to know of it.
_QUIET = np.errstate(all="ignore")


class MpiContext(NamedTuple):
    """A process among the MPI ranks of a run."""

    communicator: "MPI.Comm"  # of all ranks of the run
    node_rank: int  # among the ranks on the same machine
    node_ranks: int  # on the same machine


class Frame(NamedTuple):
    """The state of N own atoms and what they see, as in `fix_src/trajcast_bridge.h`.

    Nodes are the own atoms, then R remote nodes: atoms of other ranks that some of the E edges
    refer to.
    """

    types: NDArray[np.int32]  # (N + R,) LAMMPS atom types, from 1
    positions: NDArray[np.float64]  # (N, 3) Angstrom, unwrapped
    velocities: NDArray[np.float64]  # (N + R, 3) in the units of the run
    masses: NDArray[np.float64]  # (N,) g/mol
    first_edge: NDArray[np.int64]  # (N + 1,) edges of own atom i begin at first_edge[i]
    senders: NDArray[np.int64]  # (E,) smaller than N + R
    edge_vectors: NDArray[np.float64]  # (E, 3) Angstrom, receiver to sender's image
    remote: NDArray[np.int64] = np.empty(0, np.int64)  # (R,) places in the halo's plan, ascending
    interior: NDArray[np.int64] | None = None  # own atoms without remote senders; None if R = 0
    boundary: NDArray[np.int64] | None = None  # the other own atoms; None if R = 0
    num_systems: int = 1  # of which each keeps its momentum
    systems: NDArray[np.int64] | None = None  # (N,) from 0; None: all atoms are one


class RunLimits(NamedTuple):
    """How far the training data went, for T atom types."""

    displacements: NDArray[np.float64]  # (T,) Angstrom
    speeds: NDArray[np.float64]  # (T,) in the units of the run
    distances: NDArray[np.float64]  # (T, T) Angstrom
    nearest_distances: NDArray[np.float64]  # (T,) Angstrom, to the nearest neighbor
    temperature: float  # K


class RawPrediction(NamedTuple):
    """What the network says of N own atoms, and of R remote nodes if it was asked for them."""

    rows: NDArray[np.float64]  # (N or N + R, 6) displacement, Angstrom; velocity, units of the run
    sums: NDArray[np.float64]  # (any,) what conserve() needs to know, of this rank
    network_seconds: float  # wall time but for exchange


class Step(NamedTuple):
    """The prediction for N own atoms, one time step of the model later."""

    displacements: NDArray[np.float64]  # (N, 3) Angstrom
    velocities: NDArray[np.float64]  # (N, 3) in the units of the run


class Energies(NamedTuple):
    """The potential energy of N own atoms, in the units of the run."""

    energies: NDArray[np.float64]  # (N,)
    virials: NDArray[np.float64] | None  # (N, 6) xx, yy, zz, xy, xz, yz; None: not asked for


class _ConservationState(NamedTuple):
    """A prediction whose momentum is being restored, in rounds."""

    motion: Motion
    start: Start
    round: int = 0
    centers: Array | None = None  # sums of round 1, over all ranks


class Predictor:
    """A model file, ready to advance atoms.

    The network runs in single or double precision; edge vectors arrive, and momentum is conserved
    and the result returned, in double.

    Attributes:
        timestep: time that a step advances, fs.
        cutoff: neighbors closer than this make edges, Angstrom.
        masses: (number of types,) g/mol, those that the model was trained with.
        conserves_angular_momentum: whether it does, for isolated molecules.
        takes_angular_momentum: whether it is zero after each step.
        limits: of the training data; None if the file does not say.
        shares_device: whether other ranks run on the same GPU.
        fingerprint: of the model file, see :meth:`ModelFile.fingerprint`.
        halo: the exchange with other ranks.
        energy_cutoff: of the potential energy, Angstrom; None if the file has no energy.
        finds_edges: whether :meth:`resident` steps, which find edges themselves, are the ones to
            use.
    """

    def __init__(
        self,
        model: ModelFile,
        elements: list[str],
        units: str = "real",
        device: str = "auto",
        precision: str = "model",
        num_threads: int | None = None,
        kernels: str = "fused",
        place: MpiContext | None = None,
    ) -> None:
        """Make what runs the network of a model.

        Args:
            model: the loaded file.
            elements: chemical symbol of each atom type, in the order of the types.
            units: LAMMPS unit style of the velocities given to :meth:`step`, "real" or "metal".
            device: "auto" (a GPU if torch sees one), "cpu" or "cuda".
            precision: of the network, "single", "double" or "model", the one stored in the file;
                "tf32" is single with matrix products in TF32, on a CUDA device alone.
            num_threads: of the CPU, here and in each step; None: as many as torch has, or as the
                process has cores.
            kernels: "fused" for the compiled kernels on a CPU and the Triton kernels on a GPU,
                "direct" for the same kernels on a CPU without torch, "plain" for e3nn's operations
                throughout.
            place: this process among the MPI ranks of the run; None if it is alone.

        Raises:
            PredictorError: for an element that the model does not know or was never trained on, a
                device that is not there or lacks the software, or an unknown word.
        """
        data = model.metadata
        unknown = [element for element in elements if element not in data.species]
        if unknown:
            raise PredictorError(
                f"the model does not know the element {unknown[0]}: write one of "
                f"{', '.join(data.species)} for each atom type"
            )
        untrained = [
            element
            for element in elements
            if data.limits is not None and not data.limits.has_seen(data.species.index(element))
        ]
        if untrained:
            raise PredictorError(
                f"the model was never trained on {untrained[0]}: its training data hold no atom of "
                f"this element; train it on a data set with {untrained[0]}, or use another model"
            )
        if units not in TIME_IN_FS:
            raise PredictorError(f"unknown units {units}: write real or metal")

        index = [data.species.index(element) for element in elements]
        self.timestep = data.timestep
        self.cutoff = data.architecture.edge_cutoff
        self.masses = np.array([data.masses[i] for i in index])
        arch = data.architecture
        self.conserves_angular_momentum = arch.conserve_ang_mom
        self.takes_angular_momentum = arch.conserve_ang_mom and arch.net_ang_mom == (0.0,) * 3
        if precision not in ("model", "single", "double", "tf32"):
            raise PredictorError(
                f"unknown precision {precision}: write model, single, double or tf32"
            )
        precision = data.precision if precision == "model" else precision
        # Time units per model's time unit: one over the factor for velocities.
        self._time_ratio = TIME_IN_FS[units] / TIME_IN_FS[data.units]
        self.limits = _limits_of_types(data.limits, index, self._time_ratio)

        self._num_threads = num_threads
        self.fingerprint = model.fingerprint()
        self.energy_cutoff = None if model.energy is None else model.energy.basis.cutoff
        self._energy_ratio = 1.0 / ENERGY_IN_KCAL[units]
        node = (place.node_rank, place.node_ranks) if place else (0, 1)
        self._backend, self.shares_device = open_backend(
            model, precision, device, kernels, num_threads, node
        )
        self._memory = self._backend.memory
        self.finds_edges = self._backend.takes_room or _tests_resident_steps(kernels)
        # After the backend, which may import torch: the first of both brings the OpenMP library.
        self._energy = None if model.energy is None else EnergyKernel(model.energy)
        self._arch = arch
        self._layer_of_momentum = MomentumLayer(arch)
        # From targets to displacements, and velocities in the unit of the model.
        self._targets = (data.rms_displacement, data.rms_velocity)
        self._rms = np.repeat(self._targets, 3)
        self.halo = MpiHalo(place.communicator, self._memory) if place else Halo()
        self._layers = Layers(self._backend, self.halo)
        self._in_progress: _ConservationState | None = None
        self._species_of_type = np.array([-1, *index])

    @classmethod
    def from_file(
        cls,
        path: str,
        elements: list[str],
        units: str = "real",
        device: str = "auto",
        precision: str = "model",
        num_threads: int | None = None,
        kernels: str = "fused",
        place: MpiContext | None = None,
    ) -> "Predictor":
        """Load a model file; see the constructor for the other arguments.

        Raises:
            ModelFileError: if the file is absent or broken.
            PredictorError: as the constructor does.
        """
        model = ModelFile.load(path)
        return cls(model, elements, units, device, precision, num_threads, kernels, place)

    def resident(self) -> "ResidentStep":
        """Return the steps that stay on the device of the network, with the halo of this object."""
        from lammps_trajcast.runtime.resident import ResidentStep

        return ResidentStep(
            self._backend,
            self.halo,
            self._arch,
            self._targets,
            self._species_of_type,
            self._time_ratio,
            self._num_threads,
        )

    def step(self, frame: Frame) -> Step:
        """Predict the state one time step later, on a single rank, with the momentum restored.

        Raises:
            StepError: as :meth:`predict` does.
        """
        raw = self.predict(frame)
        sums = raw.sums
        while len(sums):
            sums = self.conserve(sums, raw.rows)
        return Step(raw.rows[:, :3], raw.rows[:, 3:])

    @_QUIET
    def predict(self, frame: Frame, with_remote: bool = False) -> RawPrediction:
        """Predict the state one time step later; all ranks have to call it.

        Args:
            frame: the state now.
            with_remote: for remote nodes, too; all ranks have to agree.

        Raises:
            StepError: something failed on this rank. It has taken part in all exchanges.
        """
        with self._memory.settings(self._num_threads):
            began = time.perf_counter()
            attempt = Attempt()
            self.halo.select(frame.remote)
            interior, boundary = (
                None if atoms is None else self._memory.hold(atoms)
                for atoms in (frame.interior, frame.boundary)
            )
            nodes = Nodes(len(frame.masses), len(frame.types), interior, boundary)
            target = self._layers.run(nodes, lambda: self._first_features(frame), attempt)
            if with_remote:
                target = self._layers.with_remote(nodes, target, attempt)
            self.halo.end()
            made: tuple[NDArray[np.float64], NDArray[np.float64]] | None = attempt(
                self._raw, frame, target
            )
            if made is None:
                sizes = (len(frame.masses), len(frame.remote), len(frame.senders))
                raise StepError(attempt.reason(*sizes)) from attempt.error
            waited = self.halo.traffic.exchange_seconds
            return RawPrediction(*made, network_seconds=time.perf_counter() - began - waited)

    @_QUIET
    def adopt(self, frame: Frame, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take a prediction that was made of several for the last one, to restore its momentum.

        Args:
            frame: the state that it begins from; its edges and remote nodes do not matter.
            rows: (N, 6) displacements, Angstrom, and velocities, in the units of the run.

        Returns:
            As the sums of :meth:`predict`: what :meth:`conserve` needs to know of this rank.
        """
        motion = Motion(rows[:, :3].copy(), rows[:, 3:] / self._time_ratio)
        return self._begin_conservation(frame, motion)

    @_QUIET
    def conserve(self, sums: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Restore the momentum of the last prediction: one round of it.

        Args:
            sums: those of the prediction or of the round before, over all ranks.
            rows: (N, 6) those of the prediction, which the last round replaces.

        Returns:
            What the next round needs to know of this rank; empty after the last.
        """
        layer, state = self._layer_of_momentum, self._in_progress
        assert state is not None, "nothing has been predicted"
        motion, start, number, centers = state
        # A copy: the caller may use the memory for the sums of the next round.
        total = sums.copy().reshape(start.num_systems, -1)
        more: Array | None = None
        if number == 0:
            motion = layer.apply_linear(motion, start, total)
            if layer.conserves_angular:
                more = layer.center_sums(motion, start)
        elif number == 1:
            centers = total
            more = layer.angular_sums(motion, start, total)
        else:
            assert centers is not None
            motion = layer.apply_angular(motion, start, centers, total)
        if more is not None:
            self._in_progress = _ConservationState(motion, start, number + 1, centers)
            return more.ravel()
        self._in_progress = None
        rows[:, :3] = motion.displacement
        rows[:, 3:] = motion.velocity * self._time_ratio
        return np.empty(0)

    @_QUIET
    def energies(self, frame: Frame, wants_virials: bool) -> Energies:
        """Return the potential energy of own atoms, on this rank alone.

        It needs neither velocities nor anything of other ranks: no call of them is expected.

        Args:
            frame: a state; edges beyond :attr:`energy_cutoff` do not matter.
            wants_virials: whether to return them.

        Raises:
            PredictorError: the model has no energy, or there is no memory.
        """
        if self._energy is None:
            raise PredictorError(
                "the model has no potential energy: add one with 'lammps-trajcast add-energy'"
            )
        species = self._species_of_type[frame.types]
        try:
            found = self._energy(
                species,
                frame.first_edge,
                frame.senders,
                frame.edge_vectors,
                wants_virials=wants_virials,
                num_threads=self._num_threads or self._memory.num_threads(),
            )
        except MemoryError as error:
            raise PredictorError(
                f"out of memory ({error}): use more MPI ranks on more machines"
            ) from None
        virials = None if found.virials is None else found.virials * self._energy_ratio
        return Energies(found.energies * self._energy_ratio, virials)

    def _first_features(self, frame: Frame) -> Matrix:
        arrays = StepArrays(
            self._species_of_type[frame.types],
            frame.velocities / self._time_ratio,
            frame.edge_vectors,
            frame.first_edge,
            frame.senders,
        )
        self._backend.prepare(StepArrays(*map(self._memory.hold, arrays)))
        return self._backend.initial_features()

    def _raw(
        self, frame: Frame, targets: Matrix
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rows and sums of :class:`RawPrediction`."""
        own = len(frame.masses)
        rows = self._memory.on_host(targets) * self._rms
        sums = self._begin_conservation(frame, Motion(rows[:own, :3], rows[:own, 3:]))
        rows = rows.copy()
        rows[:, 3:] *= self._time_ratio
        return rows, sums

    def _begin_conservation(self, frame: Frame, motion: Motion) -> NDArray[np.float64]:
        """The sums that the first round of :meth:`conserve` needs, of this rank."""
        velocities = frame.velocities[: len(frame.masses)] / self._time_ratio
        start = Start(frame.positions, velocities, frame.masses, frame.systems, frame.num_systems)
        self._in_progress = _ConservationState(motion, start)
        return self._layer_of_momentum.linear_sums(motion, start).ravel()


def _tests_resident_steps(kernels: str) -> bool:
    """Whether a CPU shall do as a GPU does; for tests, which have no GPU."""
    return kernels != "direct" and "TRAJCAST_RESIDENT" in os.environ


def _limits_of_types(
    limits: Limits | None, index: list[int], time_ratio: float
) -> RunLimits | None:
    """Limits of atom types of species index[0], index[1], ..., in the units of the run."""
    if limits is None:
        return None
    limits = limits.of_species(index)
    return RunLimits(
        displacements=_numbers(limits.max_displacement, np.inf),
        speeds=_numbers(limits.max_speed, np.inf) * time_ratio,
        distances=np.stack([_numbers(row, 0.0) for row in limits.min_distance]),
        nearest_distances=_numbers(limits.max_nearest_distance or [None] * len(index), np.inf),
        temperature=limits.max_temperature,
    )


def _numbers(row: Iterable[float | None], unknown: float) -> NDArray[np.float64]:
    return np.array([unknown if x is None else x for x in row])
