"""Import of checkpoints published by the TrajCast authors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.file import ModelFile, ModelFileError, ModelMetadata, explain
from lammps_trajcast.model.shapes import weight_shapes
from lammps_trajcast.yaml_file import read_yaml

_NAMES = {
    "edge_embedding.radial_basis.bessel_roots": (
        "_encoding.EdgeLengthEncoding.radial_basis.bessel_roots"
    ),
    "embedding.element_tp.weight": "_encoding.VelocityNormEncoding.element_tp.weight",
    "embedding.linear.weight": "_int_out.LinearInit.linear.weight",
    "read_out.compression.weight": "_int_out.LinearCompression.linear.weight",
    "read_out.read_out.weight": "_int_out.LinearReadOut.linear.weight",
}

# Buffers of a checkpoint that repeat its configuration.
_REPEATED = {
    "lmax": "max_rotation_order",
    "edge_cutoff": "edge_cutoff",
    "num_hidden_channels": "num_hidden_channels",
    "num_mp_layers": "num_mp_layers",
    "avg_num_neighbors": "avg_num_neighbors",
}


def checkpoint_key(name: str) -> str:
    """Return the name that the published code gives to the weight ``name`` of :class:`TrajCast`."""
    prefix = "interactions."
    if name.startswith(prefix):
        return f"_int_out.mp_layer_{name[len(prefix) :]}"
    return _NAMES[name]


def _read_config(path: Path) -> Architecture:
    content = read_yaml(path, ModelFileError)
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict):
        raise ModelFileError(f"{path}: no network configuration; give the config of the checkpoint")
    try:
        return Architecture.model_validate(content)
    except ValidationError as error:
        raise ModelFileError(f"{path}: {explain(error)}") from None


def _read_weights(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        raise ModelFileError(
            f"{path}: not a state dict that can be read without running code; save "
            "model.state_dict() with torch.save"
        ) from None
    if not isinstance(content, dict):
        raise ModelFileError(
            f"{path}: holds no state dict; save model.state_dict() with torch.save"
        )
    return content


def _masses(species: list[str], masses: list[float] | None) -> tuple[float, ...]:
    if masses is not None:
        if len(masses) != len(species):
            raise ModelFileError(
                f"--masses gives {len(masses)} numbers for {len(species)} species; give one each"
            )
        return tuple(masses)
    from ase.data import atomic_masses, atomic_numbers

    for symbol in species:
        if symbol not in atomic_numbers:
            raise ModelFileError(
                f"--species {symbol}: no element; write its symbol, or give --masses as well"
            )
    return tuple(float(atomic_masses[atomic_numbers[symbol]]) for symbol in species)


def convert_checkpoint(
    config: Path,
    weights: Path,
    species: list[str],
    masses: list[float] | None,
    timestep: float,
    units: Literal["real", "metal"],
) -> ModelFile:
    """Make a model file of a published configuration and state dict.

    Args:
        config: YAML file, with the hyperparameters at top level or under ``model``.
        weights: state dict saved by torch; read with ``weights_only``.
        species: element symbols in the order of the model's species index.
        masses: g/mol in the same order; None for standard atomic weights.
        timestep: fs.
        units: velocity unit of the training data, "real" (Angstrom/fs) or "metal" (Angstrom/ps).

    Raises:
        ModelFileError: a file cannot be read, or the two do not belong together.
    """
    config, weights = Path(config), Path(weights)
    arch = _read_config(config)
    state = _read_weights(weights)
    for key, field in _REPEATED.items():
        if key in state and abs(float(state[key]) - getattr(arch, field)) > 1e-6:
            raise ModelFileError(
                f"{weights}: made with {field} = {float(state[key]):g}, but {config} says "
                f"{getattr(arch, field):g}; give the config that belongs to these weights"
            )
    tensors: dict[str, Tensor] = {}
    for name, shape in weight_shapes(arch).items():
        key = checkpoint_key(name)
        if key not in state:
            raise ModelFileError(
                f"{weights}: weight {key} is missing; give the state dict of a TrajCast network "
                "and the config that belongs to it"
            )
        if tuple(state[key].shape) != shape:
            raise ModelFileError(
                f"{weights}: weight {key} has shape {tuple(state[key].shape)}, {config} needs "
                f"{shape}"
            )
        if state[key].dtype not in (torch.float32, torch.float64):
            raise ModelFileError(
                f"{weights}: weight {key} has the type {state[key].dtype}, not float32 or float64; "
                "save the state dict of model.float()"
            )
        tensors[name] = state[key].detach().clone()
    if "rms_targets" not in state:
        raise ModelFileError(f"{weights}: rms_targets is missing; is it a TrajCast state dict?")
    rms = state["rms_targets"].double().tolist()
    double = tensors["embedding.linear.weight"].dtype == torch.float64
    try:
        metadata = ModelMetadata(
            architecture=arch,
            species=tuple(species),
            masses=_masses(species, masses),
            timestep=timestep,
            units=units,
            rms_displacement=rms[0],
            rms_velocity=rms[1],
            precision="double" if double else "single",
            provenance={"converted_from": f"{config.name}, {weights.name}"},
        )
    except ValidationError as error:
        raise ModelFileError(f"cannot convert {weights}: {explain(error)}") from None
    return ModelFile(metadata, tensors)
