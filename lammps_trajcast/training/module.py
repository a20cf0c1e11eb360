"""The network as the training library sees it: loss, validation, optimizer."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor

from lammps_trajcast.kernels.fused import FusedTrajCast
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.conservation import Prediction
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.training.batches import Batch
from lammps_trajcast.training.config import OptimizationConfig, TrainingError
from lammps_trajcast.training.cuda_graphs import CudaGraphNetwork
from lammps_trajcast.training.muon import Muon
from lammps_trajcast.training.schedule import Schedule

# Nodes between no distance and the cutoff, between which training interpolates what depends on the
# length of an edge alone. Predictions of trained models (silicon, NaCl, argon) change by 4e-5 to
# 1e-4 of their size, less than a hundredth of their errors; validation does without.
TABLE_NODES = 512

DTYPES = {"single": torch.float32, "double": torch.float64}


class Errors(NamedTuple):
    """What is wrong with a prediction, (N, 3) each."""

    displacement: Tensor  # Angstrom
    velocity: Tensor  # Angstrom/fs


class TrainingModule(pl.LightningModule):
    """Minimize the mean square error of displacement and velocity, each in units of its rms.

    Args:
        architecture: of the network.
        rms_targets: rms displacement (Angstrom) and rms velocity (Angstrom/fs) of all atoms, the
            units of the network's targets.
        options: loss, optimizer and schedule.
        precision: ``single`` or ``double``.
        kernels: ``fused`` or ``plain``.
        rms_of_elements: (elements, 2), the same for each element, the units of the loss where
            ``options.normalization`` is ``element``.
    """

    loss_scales: Tensor

    def __init__(
        self,
        architecture: Architecture,
        rms_targets: tuple[float, float],
        options: OptimizationConfig,
        precision: str,
        kernels: str,
        rms_of_elements: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.options = options
        self.schedule = Schedule(options)
        # Errors to be compared with, RMSE over rms of displacement and velocity.
        self.baseline: tuple[float, float] | None = None
        self.real = DTYPES[precision]
        self.kernels = kernels
        self.rms_targets = rms_targets
        scales = torch.tensor(rms_targets).expand(architecture.num_chem_elements, 2)
        if options.normalization == "element" and rms_of_elements is not None:
            scales = rms_of_elements
        self.register_buffer("loss_scales", scales.to(self.real), persistent=False)
        self.cutoff = architecture.edge_cutoff
        self.speed_factors = architecture.speed_factors
        self.network = TrajCast(architecture, rms_targets).to(self.real)
        # In a list, so that its parameters, which are the network's, are not listed twice; with the
        # device that its own tables are on.
        self._fused: list[tuple[torch.device, FusedTrajCast]] = []
        self._cuda_graphs: CudaGraphNetwork | None = None

    def predict(self, batch: Batch, use: str = "there") -> Prediction:
        """Return the network's prediction for a batch, in the network's precision.

        Args:
            batch: on the network's device.
            use: predictions in training whose gradients are needed at once have different ones, see
                :class:`CudaGraphNetwork`.
        """
        batch = batch.to_dtype(self.real)
        predictor: Any = self.network
        if self.kernels == "fused":
            device = batch.species.device
            if not self._fused or self._fused[0][0] != device:
                fused = FusedTrajCast(self.network).to(device)
                self._fused = [(device, fused)]
                on_graphs = device.type == "cuda" and self.one_process
                self._cuda_graphs = CudaGraphNetwork(fused, self.cutoff) if on_graphs else None
            predictor = self._fused[0][1]
            if self._cuda_graphs is not None and self.training and torch.is_grad_enabled():
                return self._on_graphs(self._cuda_graphs, use, batch)
            if self.training and device.type == "cpu":
                return self._with_tables(self._fused[0][1], batch)
        prediction: Prediction = predictor(
            batch.species,
            batch.positions,
            batch.velocities,
            batch.masses,
            batch.edge_vectors,
            batch.receivers,
            batch.senders,
            batch.system,
            batch.num_systems,
        )
        return prediction

    @property
    def one_process(self) -> bool:
        """Whether gradients stay in this process; others wait for them as they are computed."""
        trainer = self._trainer
        return trainer is None or trainer.world_size == 1

    def _on_graphs(self, network: CudaGraphNetwork, use: str, batch: Batch) -> Prediction:
        target = network.predict(
            *(use, batch.species, batch.velocities),
            *(batch.edge_vectors, batch.receivers, batch.senders),
        )
        # Its pseudo-inverses make the CPU wait for the GPU, which no graph can hold.
        return self._conserved(target, batch)

    def _with_tables(self, network: FusedTrajCast, batch: Batch) -> Prediction:
        spacing = self.cutoff / TABLE_NODES
        edges = self.network.edge_embedding.tabulated(batch.edge_vectors, spacing)
        target = network.predict_from(
            *(batch.species, batch.velocities, edges, batch.receivers, batch.senders)
        )
        return self._conserved(target, batch)

    def _conserved(self, target: Tensor, batch: Batch) -> Prediction:
        conserved: Prediction = self.network.conservation(
            *(target, batch.positions, batch.velocities, batch.masses),
            *(batch.system, batch.num_systems),
        )
        return conserved

    def errors(self, batch: Batch, prediction: Prediction | None = None) -> Errors:
        """Return the errors of a prediction, by default the network's for this batch."""
        if prediction is None:
            prediction = self.predict(batch)
        batch = batch.to_dtype(self.real)
        return Errors(
            prediction.displacement - batch.displacement,
            prediction.velocity - batch.velocity_after,
        )

    def way_back(self, batch: Batch, prediction: Prediction) -> Batch | None:
        """Return the batch to be predicted backwards: from a prediction to where it began.

        None if an atom went farther than the cutoff, see :meth:`pushed_forward`.
        """
        if not self._believable(prediction):
            return None
        return batch.turned_back(
            batch.positions + prediction.displacement.detach().double(),
            prediction.velocity.detach().double(),
            self.cutoff,
        )

    def reversal_loss(self, batch: Batch, prediction: Prediction) -> Tensor:
        """Return the loss of the way back from a prediction, zero where there is none."""
        back = self.way_back(batch, prediction)
        if back is None:
            return prediction.displacement.new_zeros(())
        return self.loss(back, *self.errors(back, self.predict(back, "back")))

    def _believable(self, prediction: Prediction) -> bool:
        # Comparisons with values that are not a number are false: hence this form.
        return bool(prediction.displacement.abs().max() <= self.cutoff)

    def loss(self, batch: Batch, displacement: Tensor, velocity: Tensor) -> Tensor:
        """Return the loss of errors (N, 3)."""
        scales = self.loss_scales[batch.species].unsqueeze(2)
        weight = self.options.velocity_weight
        return (displacement / scales[:, 0]).square().mean() + weight * (
            velocity / scales[:, 1]
        ).square().mean()

    def pushed_forward(self, batch: Batch, steps: int) -> Batch:
        """Return the batch some steps into the network's own trajectory, see the configuration.

        Fewer steps where the data end, or where an atom would go farther than the cutoff: a
        network in training can explode, and the state before that is the one to learn from.
        """
        for _ in range(min(steps, len(batch.later))):
            with torch.no_grad():
                prediction = self.predict(batch)
            if not self._believable(prediction):
                break
            batch = batch.advanced(
                batch.positions + prediction.displacement.double(),
                prediction.velocity.double(),
                self.cutoff,
            )
        return batch

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of one mini-batch."""
        # Drawn from the step's number, so that a resumed run draws the same.
        generator = torch.Generator().manual_seed(self.trainer.global_step)
        steps = torch.randint(0, self.options.pushforward_steps + 1, (), generator=generator)
        batch = self.pushed_forward(batch, int(steps))
        prediction = self.predict(batch)
        loss = self.loss(batch, *self.errors(batch, prediction))
        if self.options.reversibility_weight:
            loss = loss + self.options.reversibility_weight * self.reversal_loss(batch, prediction)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"training has diverged: the loss at step {self.trainer.global_step} is "
                f"{float(loss.detach())}; lower optimization.learning_rate, now "
                f"{self.options.learning_rate:g}, or raise optimization.warmup_steps, and start "
                "anew (train --fresh)"
            )
        loss = self._weight_among_processes(len(batch.species)) * loss
        self.log(
            "train_loss",
            loss,
            on_step=False,
            on_epoch=True,
            batch_size=batch.num_systems,
            sync_dist=True,
        )
        return loss

    def _weight_among_processes(self, num_atoms: int) -> float:
        """Return what makes the mean over processes the mean over the atoms of all of them."""
        if self.trainer.world_size == 1:
            return 1.0
        # The sum of whole numbers is exact in single precision; their ratio would not be.
        atoms = torch.tensor(float(num_atoms), device=self.device)
        total = self.trainer.strategy.reduce(atoms, reduce_op="sum")
        return num_atoms * self.trainer.world_size / float(total)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Log errors of one step; the weights are the averaged ones.

        The loss, by which the best weights are chosen, is that of one step from a true state, or
        the mean of that and of one step from the end of the network's own trajectory, and what
        the way back adds to it.
        """
        prediction = self.predict(batch)
        displacement, velocity = self.errors(batch, prediction)
        loss = self.loss(batch, displacement, velocity)
        means = {
            "_displacement": displacement.square().mean() / self.rms_targets[0] ** 2,
            "_velocity": velocity.square().mean() / self.rms_targets[1] ** 2,
        }
        if self.options.pushforward_steps:
            late = self.pushed_forward(batch, self.options.pushforward_steps)
            late_loss = self.loss(late, *self.errors(late))
            means["validation_pushforward_loss"] = late_loss
            loss = 0.5 * (loss + late_loss)
        if self.options.reversibility_weight:
            back_loss = self.reversal_loss(batch, prediction)
            means["validation_reversal_loss"] = back_loss
            loss = loss + self.options.reversibility_weight * back_loss
        atoms = len(batch.species)
        self.log_dict(means, batch_size=atoms, sync_dist=True)
        self.log("validation_loss", loss, batch_size=atoms, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Turn mean squares into RMSE over rms, and say how much of the baseline's that is."""
        metrics = self.trainer.callback_metrics
        for k, name in enumerate(("displacement", "velocity")):
            if f"_{name}" in metrics:
                error = metrics[f"_{name}"].sqrt()
                self.log(f"validation_{name}_error", error)
                if self.baseline is not None and self.baseline[k] > 0.0:
                    self.log(f"{name}_over_baseline", error / self.baseline[k])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what no weight shows."""
        checkpoint["speed_factors"] = self.speed_factors

    def configure_optimizers(self) -> Any:
        """The optimizer asked for, with the learning rate set anew at every step."""
        rate = self.options.learning_rate
        optimizer: torch.optim.Optimizer
        if self.options.optimizer == "muon":
            optimizer = Muon(self.network, rate)
        else:
            optimizer = torch.optim.Adam(self.network.parameters(), lr=rate, amsgrad=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule.factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
