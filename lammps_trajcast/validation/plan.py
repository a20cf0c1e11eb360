"""How long everything in a validation takes."""

from __future__ import annotations

from dataclasses import dataclass

from lammps_trajcast.validation.config import Lengths, SetupError

# Frames of an NVE run in which the potential energy is evaluated.
NVE_ENERGIES = 200


@dataclass(frozen=True)
class RunSchedule:
    """How many horizons (time steps of the model) everything takes.

    Attributes:
        steps: time steps of the reference in a horizon.
    """

    horizon: float
    steps: int
    equilibration: int
    blocks: int
    block: int
    spectrum: int
    every: int
    nve: int
    pairs: int
    runs: int
    reference_runs: int

    @classmethod
    def make(cls, lengths: Lengths, horizon: float, timestep: float) -> RunSchedule:
        """Express the lengths of the runs in horizons.

        Args:
            lengths: as in the YAML file.
            horizon: time step of the model, fs.
            timestep: of the reference, fs.

        Raises:
            SetupError: the times do not fit together.
        """
        steps = round(horizon / timestep)
        if steps < 1 or abs(steps * timestep - horizon) > 1e-6 * horizon:
            raise SetupError(
                f"reference.timestep {timestep:g} fs does not divide the model's time step of "
                f"{horizon:g} fs; write {horizon / max(steps, 1):g}"
            )

        def horizons(picoseconds: float) -> int:
            return max(round(picoseconds * 1e3 / horizon), 1)

        every = lengths.frames_every
        block = horizons(lengths.production) // lengths.blocks // every * every
        # The displacement needs frames of different lags in every block.
        if block < 4 * every:
            raise SetupError(
                f"lengths: a production of {lengths.production:g} ps in {lengths.blocks} blocks "
                f"leaves fewer than 4 frames to a block; write at least "
                f"{4 * every * lengths.blocks * horizon * 1e-3:g}"
            )
        spectrum = block if lengths.spectrum is None else horizons(lengths.spectrum)
        nve = horizons(lengths.nve)
        return cls(
            horizon=horizon,
            steps=steps,
            equilibration=horizons(lengths.equilibration),
            blocks=lengths.blocks,
            block=block,
            spectrum=min(spectrum, block),
            every=every,
            nve=nve,
            pairs=min(lengths.one_step, nve),
            runs=lengths.runs,
            reference_runs=lengths.reference_runs,
        )

    def halves(self, number: int) -> tuple[int, int]:
        """Horizons of the two parts of a round of equilibration; number: of the round, from 0."""
        whole = max(self.equilibration, 2) * 2**number
        return whole - whole // 2, whole // 2

    @property
    def pair_spacing(self) -> int:
        """Horizons between the starts of one-step pairs."""
        return max(self.nve // self.pairs, 1)

    @property
    def nve_every(self) -> int:
        """Horizons between energies of an NVE run."""
        return max(self.nve // NVE_ENERGIES, 1)
