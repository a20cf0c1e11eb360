"""One time step of a trained network, NumPy in and NumPy out: what the LAMMPS fix runs."""

import importlib.util
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lammps_trajcast.kernels.energy import EnergyKernel
from lammps_trajcast.kernels.step_graph import StepGraph
from lammps_trajcast.kernels.tables import TableError
from lammps_trajcast.model.conservation import Conservation, Prediction
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.model.limits import Limits
from lammps_trajcast.model.torchscript import unoptimized
from lammps_trajcast.runtime.backend import DTYPES
from lammps_trajcast.runtime.halo import Halo, MpiHalo
from lammps_trajcast.runtime.make_backend import make_backend
from lammps_trajcast.runtime.torch_settings import own_torch_settings
from lammps_trajcast.units import ENERGY_IN_KCAL, TIME_IN_FS

if TYPE_CHECKING:
    from mpi4py import MPI


class PredictorError(ValueError):
    """What was asked for is impossible with this model or machine; says what to do instead."""


class StepError(PredictorError):
    """A step failed on this rank."""


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

    prediction: Prediction
    positions: Tensor  # (N, 3) Angstrom
    velocities: Tensor  # (N, 3) at the start, in the model's unit
    masses: Tensor  # (N,) g/mol
    system: Tensor  # (N,) of each atom
    num_systems: int
    round: int = 0
    centers: Tensor | None = None  # sums of round 1, over all ranks


class _Attempt:
    """Runs what may fail.

    After a failure it runs nothing more, so that this rank keeps step with the others in the
    exchange until all know of it.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __call__(self, work: Callable[..., Any], *arguments: Any) -> Any:
        if self.error is None:
            try:
                return work(*arguments)
            except Exception as error:
                self.error = error
        return None


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
        device: where the network runs.
        shares_device: whether other ranks run on the same GPU.
        fingerprint: of the model file, see :meth:`ModelFile.fingerprint`.
        halo: the exchange with other ranks.
        dtype: in which precision.
        energy_cutoff: of the potential energy, Angstrom; None if the file has no energy.
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
        """Compile the network of a model, with torch's settings as the network needs them.

        Args:
            model: the loaded file.
            elements: chemical symbol of each atom type, in the order of the types.
            units: LAMMPS unit style of the velocities given to :meth:`step`, "real" or "metal".
            device: "auto" (a GPU if torch sees one), "cpu" or "cuda".
            precision: of the network, "single", "double" or "model", the one stored in the file.
            num_threads: CPU threads of torch, here and in each step; None leaves them as they are.
            kernels: "fused" for the compiled kernels on a CPU and the Triton kernels on a GPU,
                "plain" for e3nn's operations throughout.
            place: this process among the MPI ranks of the run; None if it is alone.

        Raises:
            PredictorError: for an element that the model does not know or was never trained on, a
                device that is not there or lacks the software, or an unknown word.
        """
        with own_torch_settings(num_threads):
            self._open(model, elements, units, device, precision, num_threads, kernels, place)

    def _open(
        self,
        model: ModelFile,
        elements: list[str],
        units: str,
        device: str,
        precision: str,
        num_threads: int | None,
        kernels: str,
        place: MpiContext | None,
    ) -> None:
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
        if kernels not in ("fused", "plain"):
            raise PredictorError(f"unknown kernels {kernels}: write fused or plain")
        if units not in TIME_IN_FS:
            raise PredictorError(f"unknown units {units}: write real or metal")

        index = [data.species.index(element) for element in elements]
        self.timestep = data.timestep
        self.cutoff = data.architecture.edge_cutoff
        self.masses = np.array([data.masses[i] for i in index])
        arch = data.architecture
        self.conserves_angular_momentum = arch.conserve_ang_mom
        self.takes_angular_momentum = arch.conserve_ang_mom and arch.net_ang_mom == (0.0,) * 3
        self.device = find_device(device, place.node_rank if place else 0)
        on_triton = kernels == "fused" and self.device.type == "cuda"
        if on_triton and importlib.util.find_spec("triton") is None:
            raise PredictorError(
                "kernels fused: on a GPU they need Triton, which is not installed: write 'kernels "
                "plain' or 'device cpu', or run 'pip install triton'"
            )
        self.shares_device = (
            self.device.type == "cuda"
            and place is not None
            and place.node_ranks > torch.cuda.device_count()
        )
        precision = data.precision if precision == "model" else precision
        self.dtype = _find_dtype(precision)
        # Time units per model's time unit: one over the factor for velocities.
        self._time_ratio = TIME_IN_FS[units] / TIME_IN_FS[data.units]
        self.limits = _limits_of_types(data.limits, index, self._time_ratio)

        self._num_threads = num_threads
        self.fingerprint = model.fingerprint()
        self._energy = None if model.energy is None else EnergyKernel(model.energy)
        self.energy_cutoff = None if model.energy is None else model.energy.basis.cutoff
        self._energy_ratio = 1.0 / ENERGY_IN_KCAL[units]
        try:
            self._backend = make_backend(model, precision, self.device, kernels)
        except TableError as error:
            raise PredictorError(str(error)) from error
        rms = data.rms_displacement, data.rms_velocity
        self._conservation = Conservation(data.architecture, rms)
        # From targets to displacements, and velocities in the units of the run.
        ratios = torch.tensor([1.0, 1.0, 1.0] + [self._time_ratio] * 3, dtype=torch.float64)
        self._scales = self._conservation.rms * ratios
        self._buffers = [torch.empty(0, dtype=self.dtype, device=self.device) for _ in range(2)]
        self.halo = MpiHalo(place.communicator, self.device) if place else Halo()
        self._in_progress: _ConservationState | None = None
        self._species_of_type = torch.tensor([-1, *index])

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

    def predict(self, frame: Frame, with_remote: bool = False) -> RawPrediction:
        """Predict the state one time step later; all ranks have to call it.

        Args:
            frame: the state now.
            with_remote: for remote nodes, too; all ranks have to agree.

        Raises:
            StepError: something failed on this rank. It has taken part in all exchanges.
        """
        with own_torch_settings(self._num_threads), torch.inference_mode():
            began = time.perf_counter()
            attempt = _Attempt()
            self.halo.select(frame.remote)
            with unoptimized():
                target = self._predict(frame, attempt)
            if with_remote:
                target = self._with_remote(frame, target, attempt)
            self.halo.end()
            made: tuple[NDArray[np.float64], NDArray[np.float64]] | None = attempt(
                self._raw, frame, target
            )
            if made is None:
                raise StepError(_reason(attempt.error, frame)) from attempt.error
            waited = self.halo.traffic.exchange_seconds
            return RawPrediction(*made, network_seconds=time.perf_counter() - began - waited)

    def adopt(self, frame: Frame, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take a prediction that was made of several for the last one, to restore its momentum.

        Args:
            frame: the state that it begins from; its edges and remote nodes do not matter.
            rows: (N, 6) displacements, Angstrom, and velocities, in the units of the run.

        Returns:
            As the sums of :meth:`predict`: what :meth:`conserve` needs to know of this rank.
        """
        with own_torch_settings(self._num_threads), torch.inference_mode():
            values = torch.from_numpy(rows.copy())
            return self._begin_conservation(
                frame, Prediction(values[:, :3], values[:, 3:] / self._time_ratio)
            )

    def conserve(self, sums: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Restore the momentum of the last prediction: one round of it.

        Args:
            sums: those of the prediction or of the round before, over all ranks.
            rows: (N, 6) those of the prediction, which the last round replaces.

        Returns:
            What the next round needs to know of this rank; empty after the last.
        """
        with own_torch_settings(self._num_threads), torch.inference_mode():
            layer, state = self._conservation, self._in_progress
            assert state is not None, "nothing has been predicted"
            # A copy: the caller may use the memory for the sums of the next round.
            _, positions, velocities, masses, system, number, *_ = state
            total = torch.from_numpy(sums.copy()).view(number, -1)
            more: Tensor | None = None
            if state.round == 0:
                after = layer.apply_linear(state.prediction, total, system)
                if self.conserves_angular_momentum:
                    more = layer.center_sums(after, positions, masses, system, number)
                state = state._replace(prediction=after, round=1)
            elif state.round == 1:
                more = layer.angular_sums(
                    state.prediction, positions, velocities, masses, total, system, number
                )
                state = state._replace(centers=total, round=2)
            else:
                assert state.centers is not None
                after = layer.apply_angular(
                    state.prediction, positions, state.centers, total, system
                )
                state = state._replace(prediction=after)
            self._in_progress = state if more is not None else None
            if more is not None:
                return more.flatten().numpy()
            rows[:, :3] = state.prediction.displacement.numpy()
            rows[:, 3:] = (state.prediction.velocity * self._time_ratio).numpy()
            return np.empty(0)

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
        species = self._species_of_type.numpy()[frame.types]
        try:
            found = self._energy(
                species,
                frame.first_edge,
                frame.senders,
                frame.edge_vectors,
                wants_virials=wants_virials,
                num_threads=self._num_threads or torch.get_num_threads(),
            )
        except MemoryError as error:
            raise PredictorError(
                f"out of memory ({error}): use more MPI ranks on more machines"
            ) from None
        virials = None if found.virials is None else found.virials * self._energy_ratio
        return Energies(found.energies * self._energy_ratio, virials)

    def _predict(self, frame: Frame, attempt: _Attempt) -> Tensor:
        """Return targets (N, 6), layer by layer.

        While the halo sends features, a layer is computed for atoms without remote senders
        (interior); then for the others (boundary).
        """
        own = len(frame.masses)
        features: Any = attempt(self._first_features, frame) if own else None
        interior, boundary = self._on_device(frame.interior), self._on_device(frame.boundary)
        for k, width in enumerate(self._backend.widths[1:]):
            after = self._buffer(k % 2, len(frame.types), width)
            if k > 0:
                self.halo.start(features, own)
            attempt(self._layer, own, k, features, after, interior if k > 0 else None)
            if k > 0:
                self.halo.finish()
                if boundary is not None:
                    attempt(self._layer, own, k, features, after, boundary)
            features = after
        return attempt(self._backend.read_out, features) if own else torch.zeros((0, 6))

    def _first_features(self, frame: Frame) -> Tensor:
        species = self._species_of_type[torch.from_numpy(frame.types).long()]
        graph = StepGraph(
            species,
            torch.from_numpy(frame.velocities) / self._time_ratio,
            torch.from_numpy(frame.edge_vectors),
            torch.from_numpy(frame.first_edge),
            torch.from_numpy(frame.senders),
        )
        self._backend.prepare(StepGraph(*(tensor.to(self.device) for tensor in graph)))
        return self._backend.initial_features()

    def _layer(
        self, own: int, k: int, features: Tensor, after: Tensor, receivers: Tensor | None
    ) -> None:
        if own:
            self._backend.layer(k, features, after, receivers)

    def _on_device(self, atoms: NDArray[np.int64] | None) -> Tensor | None:
        return None if atoms is None else torch.from_numpy(atoms).to(self.device)

    def _buffer(self, number: int, rows: int, width: int) -> Tensor:
        """One of two matrices (rows, width), whose memory is kept from step to step."""
        size = rows * width
        if self._buffers[number].numel() < size:
            self._buffers[number] = torch.empty(
                size + size // 10, dtype=self.dtype, device=self.device
            )
        return self._buffers[number][:size].view(rows, width)

    def _with_remote(self, frame: Frame, target: Tensor | None, attempt: _Attempt) -> Tensor:
        """Targets (N + R, 6): those of remote nodes come from the ranks that predict them."""
        own = len(frame.masses)
        targets = self._buffer(self._backend.num_layers % 2, len(frame.types), 6)
        attempt(lambda: targets[:own].copy_(cast(Tensor, target)))
        self.halo.start(targets, own)
        self.halo.finish()
        return targets

    def _raw(
        self, frame: Frame, targets: Tensor
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rows and sums of :class:`RawPrediction`."""
        own = len(frame.masses)
        targets = targets.to(dtype=torch.float64, device="cpu")
        sums = self._begin_conservation(frame, self._conservation.scale(targets[:own]))
        return (targets * self._scales).numpy(), sums

    def _begin_conservation(self, frame: Frame, prediction: Prediction) -> NDArray[np.float64]:
        """The sums that the first round of :meth:`conserve` needs, of this rank."""
        own = len(frame.masses)
        velocities = torch.from_numpy(frame.velocities[:own]) / self._time_ratio
        masses = torch.from_numpy(frame.masses)
        system = torch.zeros(own, dtype=torch.int64)
        if frame.systems is not None:
            system = torch.from_numpy(frame.systems)
        number = frame.num_systems
        sums = self._conservation.linear_sums(prediction, velocities, masses, system, number)
        positions = torch.from_numpy(frame.positions)
        self._in_progress = _ConservationState(
            prediction, positions, velocities, masses, system, number
        )
        return sums.flatten().numpy()


def _reason(error: Exception | None, frame: Frame) -> str:
    """What went wrong on this rank, in one line; empty if nothing."""
    if error is None or isinstance(error, PredictorError):
        return str(error or "")
    text = " ".join(str(error).split())
    no_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if no_memory or "allocate memory" in text:
        return (
            f"out of memory with {len(frame.masses)} atoms, {len(frame.remote)} atoms of other "
            f"ranks and {len(frame.senders)} edges on one MPI rank: use more ranks on more machines"
        )
    return f"unexpected {type(error).__name__}: {text}"


def find_device(name: str, node_rank: int = 0) -> torch.device:
    """Return the device of the given name for one of the MPI ranks on a machine.

    Args:
        name: "auto" (a GPU if torch sees one), "cpu" or "cuda".
        node_rank: number of the rank on its machine; ranks take GPUs in turns.

    Raises:
        PredictorError: for a GPU that is not there, or an unknown name.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise PredictorError(
            "device cuda: torch finds no CUDA GPU on this machine: write 'device cpu' or "
            "'device auto', or install a torch that was built for CUDA"
        )
    if name not in ("cpu", "cuda"):
        raise PredictorError(f"unknown device {name}: write auto, cpu or cuda")
    if name == "cuda":
        return torch.device("cuda", node_rank % torch.cuda.device_count())
    return torch.device(name)


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


def _find_dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise PredictorError(f"unknown precision {name}: write model, single or double")
    return DTYPES[name]
