"""One time step of a trained network, NumPy in and NumPy out: what the LAMMPS fix runs."""

import copy
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lammps_trajcast.kernels.fused import FusedTrajCast
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.model.network import compile_network, quick_construction

FEMTOSECONDS = {"real": 1.0, "metal": 1000.0}
"""Time unit of LAMMPS's unit styles, in fs; both measure length in Angstrom."""

DTYPES = {"single": torch.float32, "double": torch.float64}


class PredictorError(ValueError):
    """What was asked for is impossible with this model or machine; says what to do instead."""


class Frame(NamedTuple):
    """One state of N atoms and the E edges between them, as in `fix_src/trajcast_bridge.h`."""

    types: NDArray[np.int32]  # (N,) LAMMPS atom types, from 1
    positions: NDArray[np.float64]  # (N, 3) Angstrom, unwrapped
    velocities: NDArray[np.float64]  # (N, 3) in the units of the run
    masses: NDArray[np.float64]  # (N,) g/mol
    receivers: NDArray[np.int64]  # (E,) sorted
    senders: NDArray[np.int64]  # (E,)
    edge_vectors: NDArray[np.float64]  # (E, 3) Angstrom, receiver to sender's image


class Step(NamedTuple):
    """The prediction for N atoms, one time step of the model later."""

    displacements: NDArray[np.float64]  # (N, 3) Angstrom
    velocities: NDArray[np.float64]  # (N, 3) in the units of the run


class Predictor:
    """A model file, ready to advance atoms.

    The network runs in single or double precision; edge vectors arrive, and momentum is conserved
    and the result returned, in double.

    Attributes:
        timestep: time that a step advances, fs.
        cutoff: neighbours closer than this make edges, Angstrom.
        masses: (number of types,) g/mol, those that the model was trained with.
        conserves_angular_momentum: whether it does, for isolated molecules.
        device: where the network runs.
        dtype: in which precision.
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
    ) -> None:
        """Compile the network of a model.

        Args:
            model: the loaded file.
            elements: chemical symbol of each atom type, in the order of the types.
            units: LAMMPS unit style of the velocities given to :meth:`step`, "real" or "metal".
            device: "auto" (a GPU if torch sees one), "cpu" or "cuda".
            precision: of the network, "single", "double" or "model", the one stored in the file.
            num_threads: CPU threads of torch, for the whole process; None leaves them as they are.
            kernels: "fused" for the compiled CPU kernels (a GPU takes the plain path), "plain" for
                e3nn's operations throughout.

        Raises:
            PredictorError: for an element that the model does not know, a device that is not there,
                or an unknown word.
        """
        data = model.metadata
        unknown = [element for element in elements if element not in data.species]
        if unknown:
            raise PredictorError(
                f"the model does not know the element {unknown[0]}: write one of "
                f"{', '.join(data.species)} for each atom type"
            )
        if kernels not in ("fused", "plain"):
            raise PredictorError(f"unknown kernels {kernels}: write fused or plain")
        if units not in FEMTOSECONDS:
            raise PredictorError(f"unknown units {units}: write real or metal")

        index = [data.species.index(element) for element in elements]
        self.timestep = data.timestep
        self.cutoff = data.architecture.edge_cutoff
        self.masses = np.array([data.masses[i] for i in index])
        self.conserves_angular_momentum = data.architecture.conserve_ang_mom
        self.device = _find_device(device)
        self.dtype = _find_dtype(data.precision if precision == "model" else precision)
        # Time units per model's time unit: one over the factor for velocities.
        self._time_ratio = FEMTOSECONDS[units] / FEMTOSECONDS[data.units]

        if num_threads is not None:
            torch.set_num_threads(num_threads)
        fused = kernels == "fused" and self.device.type == "cpu"
        with quick_construction() if fused else nullcontext():
            network = model.build(dtype=torch.float64)
        self._conservation = copy.deepcopy(network.conservation)
        network = network.to(dtype=self.dtype, device=self.device).eval()
        self._network = compile_network(FusedTrajCast(network) if fused else network)
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
    ) -> "Predictor":
        """Load a model file; see the constructor for the other arguments.

        Raises:
            ModelFileError: if the file is absent or broken.
            PredictorError: as the constructor does.
        """
        model = ModelFile.load(path)
        return cls(model, elements, units, device, precision, num_threads, kernels)

    @torch.inference_mode()
    def step(self, frame: Frame, conserve: bool = True) -> Step:
        """Predict the state one time step later.

        Args:
            frame: the state now.
            conserve: restore the total momentum, and angular momentum where the model asks for it.
        """
        species = self._species_of_type[torch.from_numpy(frame.types).long()]
        velocities = torch.from_numpy(frame.velocities) / self._time_ratio
        # TorchScript's optimiser would compile for the shapes it sees, for many seconds and over
        # and over: every step has another number of edges. It gains nothing here.
        with torch.jit.optimized_execution(False):
            target = self._network.predict(
                species.to(self.device),
                velocities.to(dtype=self.dtype, device=self.device),
                torch.from_numpy(frame.edge_vectors).to(dtype=self.dtype, device=self.device),
                torch.from_numpy(frame.receivers).to(self.device),
                torch.from_numpy(frame.senders).to(self.device),
            ).to(dtype=torch.float64, device="cpu")
        if conserve:
            prediction = self._conservation(
                target,
                torch.from_numpy(frame.positions),
                velocities,
                torch.from_numpy(frame.masses),
                torch.zeros_like(species),
                1,
            )
        else:
            prediction = self._conservation.scale(target)
        velocity = prediction.velocity * self._time_ratio
        return Step(prediction.displacement.numpy(), velocity.numpy())


def _find_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise PredictorError(
            "device cuda: torch finds no CUDA GPU on this machine: write 'device cpu' or "
            "'device auto', or install a torch that was built for CUDA"
        )
    if name not in ("cpu", "cuda"):
        raise PredictorError(f"unknown device {name}: write auto, cpu or cuda")
    return torch.device(name)


def _find_dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise PredictorError(f"unknown precision {name}: write model, single or double")
    return DTYPES[name]
