"""What `equipartition` and `match-moments` share: cheap changes of a model's last layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lammps_trajcast.data.dataset import TrajectoryPairs
from lammps_trajcast.data.statistics import dataset_statistics
from lammps_trajcast.equipartition.last_layer import LastLayer
from lammps_trajcast.model.file import ModelFile, weights_of
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.training.batches import GraphPairs, collate
from lammps_trajcast.training.config import OptimizationConfig
from lammps_trajcast.training.finishing import TEST_PAIRS, measure_errors
from lammps_trajcast.training.module import TrainingModule
from lammps_trajcast.training.preparation import rms_of_elements, spread
from lammps_trajcast.validation.config import SetupError

# Atoms of the data set on which the cost of a change is measured.
COST_ATOMS = 8000
# Atoms of which the derivatives are in memory at once.
COST_BATCH = 150
# Of the mean curvature of the cost; keeps changes small that the data say nothing of.
RIDGE = 1e-4
# Weights of the last layer beyond which the equations do not fit into memory.
LARGEST = 12_000


class LastLayerCorrection:
    """A model whose last layer is changed at the least cost in the loss on a data set.

    Args:
        model: model file.
        dataset: that the model was trained on.

    Raises:
        SetupError: the model and the data do not fit together.
    """

    def __init__(self, model: Path, dataset: Sequence[Path]) -> None:
        self.dataset = dataset
        self.file = ModelFile.load(model)
        data = self.metadata = self.file.metadata
        if data.units != "real":
            raise SetupError(
                f"model: {model} is in metal units; train one with 'lammps-trajcast train'"
            )
        pairs = TrajectoryPairs(dataset, "train")
        if list(data.species) != pairs.elements or data.timestep != pairs.horizon:
            raise SetupError(
                f"--dataset: for {' '.join(pairs.elements)} and {pairs.horizon:g} fs, the model "
                f"for {' '.join(data.species)} and {data.timestep:g} fs; give the one that the "
                "model was trained on"
            )
        self.cutoff = data.architecture.edge_cutoff
        self.rms = (data.rms_displacement, data.rms_velocity)
        self.network = TrajCast(data.architecture, self.rms).float()
        self.network.load_state_dict(self.file.state_dict, strict=False)
        self.layer = LastLayer(self.network, self.rms)
        if self.layer.size > LARGEST:
            raise SetupError(
                f"model: {model} has {self.layer.size} weights in its last layer, more than "
                f"the {LARGEST} that can be solved for; take one with fewer channels"
            )
        self.scales = rms_of_elements(dataset_statistics(dataset, "train")).double()
        self.cost = self._cost(pairs)

    def _cost(self, pairs: TrajectoryPairs) -> Tensor:
        """Return the matrix (size, size) of the growth of the loss, relative to the loss."""
        frames = GraphPairs(pairs, self.cutoff)
        atoms = len(pairs[0].species)
        matrix = torch.zeros(self.layer.size, self.layer.size, dtype=torch.float64)
        loss = 0.0
        indices = spread(len(frames), 1 + COST_ATOMS // atoms)
        together = 1 + COST_BATCH // atoms
        for k in range(0, len(indices), together):
            batch = collate([frames[index] for index in indices[k : k + together]])
            prediction = self.layer.predict(batch)
            for target, truth in enumerate((batch.displacement, batch.velocity_after)):
                scale = self.scales[batch.species, target]
                error = (prediction[target] - truth) / scale[:, None]
                rows = self.layer.derivative(batch, target) / scale.repeat_interleave(3)[:, None]
                # Half of the time of double precision; what is small is behind the ridge anyway.
                single = rows.float()
                matrix += (single.T @ single).double()
                loss += float(error.square().sum())
        return matrix / loss

    def _factor(self) -> Tensor:
        """Return the Cholesky factor of the cost with its ridge."""
        sizes = (self.layer.map_size, 2 * self.layer.shortcut_size)
        means = [part.mean() for part in self.cost.diagonal().split(sizes)]
        ridge = torch.cat([mean.expand(size) for mean, size in zip(means, sizes, strict=True)])
        return torch.linalg.cholesky(self.cost + torch.diag(RIDGE * ridge))

    @staticmethod
    def _change(factor: Tensor, effect: Tensor, wanted: Tensor, uncertainty: Tensor) -> Tensor:
        """Return the cheapest change (size,) of the weights that does what is wanted.

        Minimizes the cost plus the square of what is missing over its uncertainty.

        Args:
            factor: (size, size) Cholesky factor of the cost.
            effect: (K, size) of a change of the weights on the energies.
            wanted: (K,) relative change of the energies in a step.
            uncertainty: (K,) of what is wanted.
        """
        solved = torch.cholesky_solve(effect.T, factor)
        system = effect @ solved + torch.diag(uncertainty.square())
        return solved @ torch.linalg.solve(system, wanted)

    def errors(self) -> dict[str, float]:
        """Return the errors on the test split as training puts them into the provenance."""
        pairs = TrajectoryPairs(self.dataset, "test")
        if not len(pairs):
            return {}
        module = TrainingModule(
            *(
                self.metadata.architecture,
                self.rms,
                OptimizationConfig.model_validate({"steps": 1}),
            ),
            *("single", "fused"),
        )
        module.network.load_state_dict(self.network.state_dict())
        chosen = spread(len(pairs), TEST_PAIRS)
        errors = measure_errors(module, GraphPairs(pairs, self.cutoff, chosen), 1)
        names = {"displacement": "test_error_displacement", "velocity": "test_error_velocity"}
        return {names.get(name, "test_pairs"): value for name, value in errors.items()}

    def model_file(self, name: str, done: str) -> ModelFile:
        """Return the model as it is now; what was `done` goes into the provenance under `name`."""
        earlier = self.metadata.provenance.get(name)
        provenance = {
            **self.metadata.provenance,
            name: done if earlier is None else f"{earlier}; then {done}",
        }
        metadata = self.metadata.model_copy(update={"provenance": provenance})
        return ModelFile(metadata, weights_of(self.network), self.file.energy)

    def with_errors(self, changed: ModelFile) -> ModelFile:
        """Return a model of :meth:`model_file` with its own errors in the provenance."""
        provenance = {
            name: value
            for name, value in changed.metadata.provenance.items()
            if not name.startswith("test_")
        }
        metadata = changed.metadata.model_copy(update={"provenance": provenance | self.errors()})
        return ModelFile(metadata, changed.state_dict, changed.energy)
