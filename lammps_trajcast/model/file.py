"""Model files: weights as safetensors, everything else as JSON in the header.

Opening one reads numbers and text; nothing in it is run. The network is made of this package's own
classes, and neither they nor torch are imported before one is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lammps_trajcast.atomic_file import replacing
from lammps_trajcast.energy.model import EnergyHeader, EnergyModel
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.limits import Limits
from lammps_trajcast.model.shapes import weight_shapes

if TYPE_CHECKING:  # a model file is read without them
    import torch
    from torch import Tensor

    from lammps_trajcast.model.network import TrajCast

FORMAT_VERSION: Literal[1] = 1
# The key of the safetensors header under which the metadata lie.
HEADER_KEY = "lammps_trajcast"
# That of the checksum over metadata and weights; files of the first releases have none.
CHECKSUM_KEY = "lammps_trajcast_sha256"
# That of the potential energy, and what its arrays are called.
ENERGY_KEY = "lammps_trajcast_energy"
_ENERGY_PREFIX = "energy."
# What safetensors calls the types that weights may have, and others that a file may hold.
_TYPES = {"F32": "float32", "F64": "float64"}
_OTHER_TYPES = {"F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}


class ModelFileError(Exception):
    """A model file, or a checkpoint, that cannot be used; the message says what to do."""


class ModelMetadata(BaseModel):
    """What a model file says besides its weights.

    Lengths in Angstrom; velocities in Angstrom/fs for ``units`` "real", Angstrom/ps for "metal".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = FORMAT_VERSION
    architecture: Architecture
    species: tuple[str, ...]  # element symbols in the order of the network's species index
    masses: tuple[float, ...]  # g/mol, in the same order
    timestep: float = Field(gt=0.0, allow_inf_nan=False)  # fs
    units: Literal["real", "metal"]  # velocity unit of the network
    rms_displacement: float = Field(gt=0.0, allow_inf_nan=False)
    rms_velocity: float = Field(gt=0.0, allow_inf_nan=False)
    precision: Literal["single", "double"] = "single"  # the one the network was trained in
    statistics: Mapping[str, float | int | str | None] = {}  # of the training data
    limits: Limits | None = None  # of the training data, for each species
    provenance: Mapping[str, Any] = {}  # where the weights come from

    @model_validator(mode="after")
    def _consistent(self) -> ModelMetadata:
        count = self.architecture.num_chem_elements
        if len(self.species) != count or len(self.masses) != count:
            raise ValueError(f"species and masses must list the {count} elements of the network")
        if len(set(self.species)) != count:
            raise ValueError("an element is listed twice in species")
        if not all(0.0 < mass < 1e4 for mass in self.masses):
            raise ValueError("masses must be positive, in g/mol")
        if self.limits is not None and self.limits.num_species != count:
            raise ValueError(f"limits must list the {count} elements of the network")
        return self


def explain(error: ValidationError) -> str:
    """Return in one line what is wrong with which field; the first three of them."""
    problems = []
    details = error.errors(include_input=False, include_url=False)
    for detail in details[:3]:
        name = ".".join(str(word)[:60] for word in detail["loc"])
        what = "missing" if detail["type"] == "missing" else detail["msg"]
        problems.append(f"{name}: {what}" if name else what)
    if len(details) > 3:
        problems.append(f"and {len(details) - 3} more")
    return " ".join("; ".join(problems).split())


class ModelFile:
    """A trained network and what is known about it.

    Attributes:
        metadata: see :class:`ModelMetadata`.
        weights: by parameter name of :class:`TrajCast`, float32 or float64.
        energy: the potential energy that goes with the steps; None if the file has none.
    """

    def __init__(
        self,
        metadata: ModelMetadata,
        weights: Mapping[str, NDArray[Any] | Tensor],
        energy: EnergyModel | None = None,
    ) -> None:
        """Take the weights as they are, without a copy.

        Raises:
            ModelFileError: they are neither float32 nor float64.
        """
        self.metadata = metadata
        self.weights = as_arrays(weights)
        self.energy = energy

    @property
    def state_dict(self) -> Mapping[str, Tensor]:
        """The weights as tensors on the same memory."""
        import torch

        return MappingProxyType({k: torch.from_numpy(w) for k, w in self.weights.items()})

    @classmethod
    def load(cls, path: Path | str) -> ModelFile:
        """Read and check a model file.

        Raises:
            ModelFileError: the file is absent, cut off, damaged, of an unknown version, or
                incomplete.
        """
        path = Path(path)
        try:
            if path.exists() and not path.is_file():
                raise ModelFileError(
                    f"{path}: a directory or a device; give the path of a .safetensors file"
                )
            with path.open("rb"):
                pass
        except FileNotFoundError:
            raise ModelFileError(
                f"{path}: no such model file; give the path of a .safetensors file"
            ) from None
        except (OSError, ValueError) as error:
            raise ModelFileError(
                f"{path}: cannot be read ({_reason(error)}); give the path of a .safetensors file "
                "that can be read"
            ) from None
        try:
            with safe_open(path, framework="np") as file:
                header = file.metadata() or {}
                metadata = cls._metadata(path, header)
                described = cls._energy_header(path, header, metadata)
                shapes = weight_shapes(metadata.architecture)
                if described is not None:
                    shapes |= {
                        _ENERGY_PREFIX + name: shape
                        for name, shape in described.basis.shapes().items()
                    }
                present = set(file.keys())
                missing = sorted(set(shapes) - present)
                if missing:
                    raise ModelFileError(
                        f"{path}: broken model file: weight {missing[0]} is missing"
                    )
                unknown = sorted(present - set(shapes))
                if unknown:
                    raise ModelFileError(f"{path}: broken model file: unknown weight {unknown[0]}")
                for name, shape in shapes.items():
                    stored = file.get_slice(name)
                    found, kind = tuple(stored.get_shape()), stored.get_dtype()
                    if kind not in _TYPES:
                        raise ModelFileError(
                            f"{path}: broken model file: weight {name} has the type "
                            f"{_OTHER_TYPES.get(kind, kind)}, not float32 or float64"
                        )
                    if found != shape:
                        raise ModelFileError(
                            f"{path}: broken model file: weight {name} has shape {found}, the "
                            f"architecture needs {shape}"
                        )
                state = {name: file.get_tensor(name) for name in shapes}
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelFileError(
                f"{path}: not a whole model file ({_reason(error)}); copy or convert it anew"
            ) from None
        for name, array in state.items():
            if not np.isfinite(array).all():
                raise ModelFileError(f"{path}: broken model file: weight {name} is not finite")
        expected = header.get(CHECKSUM_KEY)
        text = header[HEADER_KEY] + header.get(ENERGY_KEY, "")
        if expected is not None and expected != _checksum(text, state):
            raise ModelFileError(
                f"{path}: damaged model file: its content does not have the checksum written in "
                "it; copy or convert it anew"
            )
        if described is None:
            return cls(metadata, state)
        arrays = {
            name: np.asarray(state.pop(_ENERGY_PREFIX + name), dtype=np.float64)
            for name in described.basis.shapes()
        }
        return cls(
            metadata,
            state,
            EnergyModel(described.basis, arrays, described.errors, described.provenance),
        )

    @staticmethod
    def _energy_header(
        path: Path, header: dict[str, str], metadata: ModelMetadata
    ) -> EnergyHeader | None:
        if ENERGY_KEY not in header:
            return None
        try:
            found = EnergyHeader.model_validate_json(header[ENERGY_KEY])
        except ValidationError as error:
            raise ModelFileError(
                f"{path}: broken model file: its energy: {explain(error)}"
            ) from None
        if found.basis.num_species != len(metadata.species):
            raise ModelFileError(
                f"{path}: broken model file: its energy is of {found.basis.num_species} species, "
                f"its network of {len(metadata.species)}"
            )
        return found

    @staticmethod
    def _metadata(path: Path, header: dict[str, str]) -> ModelMetadata:
        if HEADER_KEY not in header:
            raise ModelFileError(
                f"{path}: a safetensors file, but not of lammps-trajcast; published checkpoints "
                "are imported with 'lammps-trajcast convert'"
            )
        try:
            content = json.loads(header[HEADER_KEY])
        except (ValueError, RecursionError):
            raise ModelFileError(f"{path}: broken model file: its header is not JSON") from None
        if not isinstance(content, dict):
            raise ModelFileError(f"{path}: broken model file: its header is no JSON object")
        version = content.get("format_version")
        if version is None:
            raise ModelFileError(f"{path}: broken model file: format_version is missing")
        if version != FORMAT_VERSION:
            raise ModelFileError(
                f"{path}: model file of format version {version}, this lammps-trajcast reads "
                f"version {FORMAT_VERSION}; install the release that wrote it"
            )
        try:
            return ModelMetadata.model_validate(content)
        except ValidationError as error:
            raise ModelFileError(f"{path}: broken model file: {explain(error)}") from None

    def save(self, path: Path | str) -> None:
        """Write the file; a file of that name is replaced only when the new one is whole.

        Raises:
            ModelFileError: the file cannot be written.
        """
        path = Path(path)
        text = self.metadata.model_dump_json()
        weights = {name: np.ascontiguousarray(array) for name, array in self.weights.items()}
        header = {HEADER_KEY: text}
        if self.energy is not None:
            basis, arrays, errors, provenance = self.energy
            described = EnergyHeader(basis=basis, errors=errors, provenance=dict(provenance))
            header[ENERGY_KEY] = described.model_dump_json()
            weights |= {
                _ENERGY_PREFIX + name: np.ascontiguousarray(array) for name, array in arrays.items()
            }
        header[CHECKSUM_KEY] = _checksum("".join(header.values()), weights)
        try:
            with replacing(path) as partial:
                save_file(weights, partial, metadata=header)
                partial.chmod(0o644)
        except (OSError, SafetensorError) as error:
            raise ModelFileError(f"{path}: cannot be written ({error})") from None

    def build(self, dtype: torch.dtype | None = None) -> TrajCast:
        """Return the network with these weights, in evaluation mode.

        Args:
            dtype: torch.float32 or torch.float64, the default.
        """
        import torch

        from lammps_trajcast.model.network import TrajCast

        data = self.metadata
        network = TrajCast(data.architecture, (data.rms_displacement, data.rms_velocity))
        parameters = {k: p for k, p in network.named_parameters() if p.numel()}
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(torch.from_numpy(self.weights[name]))
        network.requires_grad_(False)
        return network.to(dtype or torch.float64).eval()

    def fingerprint(self) -> str:
        """Return a SHA-256 digest of architecture, units, time step and weights (hexadecimal)."""
        digest = hashlib.sha256()
        # Without defaults: a field that a later release adds changes no fingerprint.
        core = self.metadata.model_dump(
            mode="json", exclude={"statistics", "limits", "provenance"}, exclude_defaults=True
        )
        digest.update(json.dumps(core, sort_keys=True).encode())
        for name in sorted(self.weights):
            digest.update(name.encode())
            digest.update(self.weights[name].tobytes())
        return digest.hexdigest()


def _checksum(metadata: str, weights: Mapping[str, NDArray[Any]]) -> str:
    """Return a SHA-256 digest of all that a file holds (hexadecimal)."""
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(weights):
        array = weights[name]
        # The types have torch's names in files of all releases.
        digest.update(f"{name} torch.{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(text.split())


def as_arrays(weights: Mapping[str, NDArray[Any] | Tensor]) -> dict[str, NDArray[Any]]:
    """Return weights, given as arrays or as tensors, as arrays on the same memory.

    Raises:
        ModelFileError: they are neither float32 nor float64.
    """
    arrays = {}
    for name, values in weights.items():
        kind = str(values.dtype).removeprefix("torch.")
        if kind not in _TYPES.values():
            raise ModelFileError(f"weight {name} has the type {kind}, not float32 or float64")
        arrays[name] = values if isinstance(values, np.ndarray) else values.detach().cpu().numpy()
    return arrays


def weights_of(network: TrajCast) -> dict[str, Tensor]:
    """Return the trainable weights of a network by name, as a model file stores them."""
    return {
        name: parameter.detach().clone()
        for name, parameter in network.named_parameters()
        if parameter.numel()
    }
