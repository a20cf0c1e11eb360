"""A step that stays on the device of the network.

The neighbor list goes there when LAMMPS builds it. In a step positions and velocities follow;
edges, network, momentum and the limits of the guard are worked out there; sums come back, and at
the end displacements and velocities. The host waits for the device twice: for the sums, which the
ranks add up, and for the result.
"""

from __future__ import annotations

import functools
import time
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.conservation import Conservation, Prediction
from lammps_trajcast.runtime.backend import Backend, StepArrays
from lammps_trajcast.runtime.buffers import Buffers
from lammps_trajcast.runtime.device_edges import (
    Edges,
    ExactEdges,
    Neighborhood,
    Neighbors,
    RoomyEdges,
)
from lammps_trajcast.runtime.errors import StepError
from lammps_trajcast.runtime.halo import Halo
from lammps_trajcast.runtime.layers import Attempt, Layers, Nodes
from lammps_trajcast.runtime.replay import Replay, cuda_graph
from lammps_trajcast.runtime.tensor_memory import TensorMemory

CHECKS = 7  # TRAJCAST_CHECKS of `fix_src/trajcast_bridge.h`


class State(NamedTuple):
    """N own atoms and the M atoms of other ranks in the plan of the halo, without edges."""

    types: NDArray[np.int32]  # (N + M,) LAMMPS atom types, from 1
    positions: NDArray[np.float64]  # (N, 3) Angstrom, unwrapped
    velocities: NDArray[np.float64]  # (N + M, 3) in the units of the run
    masses: NDArray[np.float64]  # (N,) g/mol
    node_positions: NDArray[np.float64]  # (N + M, 3) Angstrom, wrapped
    cell: NDArray[np.float64]  # (6,) xx, yy, zz, yz, xz, xy, Angstrom
    moved: NDArray[np.uint8] | None = None  # (N + M,) whether the prediction counts; None: all
    judge: bool = False  # compare with limits
    num_systems: int = 1  # of which each keeps its momentum
    systems: NDArray[np.int64] | None = None  # (N,) from 0; None: all atoms are one


class DeviceLimits(NamedTuple):
    """How far predictions may go, for T atom types; infinity, for distances zero: no limit."""

    displacements: NDArray[np.float64]  # (T,) Angstrom
    speeds: NDArray[np.float64]  # (T,) in the units of the run
    distances: NDArray[np.float64]  # (T, T) Angstrom
    nearest: NDArray[np.float64]  # (T,) Angstrom, to the nearest neighbor


class Outcome(NamedTuple):
    """What the host learns of a prediction at first."""

    sums: NDArray[np.float64]  # what conserve() needs to know, of this rank
    checks: NDArray[np.float64]  # (CHECKS,) see trajcast_prediction
    num_broken: int  # own atoms whose prediction is not a number
    num_edges: int
    network_seconds: float  # wall time but for exchange


class _Inputs(NamedTuple):
    """A state on the device."""

    kinds: Tensor  # (nodes,) int64 types from 0
    species: Tensor  # (nodes,) int64
    positions: Tensor  # (nodes, 3) wrapped
    velocities: Tensor  # (nodes, 3) of the run
    masses: Tensor  # (N,)
    cell: Tensor
    moved: Tensor  # (nodes,) uint8
    system: Tensor  # (N,) int64
    num_systems: int
    judge: bool


class _Made(NamedTuple):
    """A prediction on the device."""

    rows: Tensor  # (N, 6), or those of all nodes, in the units of the run; momentum not restored
    report: Tensor  # checks, broken atoms, edges, sums


class _Conserved(NamedTuple):
    """A prediction whose momentum is being restored, in rounds."""

    motion: Prediction
    unwrapped: Tensor  # (N, 3); empty unless angular momentum counts
    velocities: Tensor  # (N, 3) in the unit of the model
    masses: Tensor
    system: Tensor
    num_systems: int
    round: int = 0
    centers: Tensor | None = None


class ResidentStep:
    """The steps of one rank on its device.

    In the order of the calls: :meth:`set_limits` once, :meth:`take` after each new neighbor list,
    in a step :meth:`predict`, :meth:`rows` where somebody wants them, :meth:`conserve`.
    """

    def __init__(
        self,
        backend: Backend,
        halo: Halo,
        arch: Architecture,
        rms: tuple[float, float],
        species_of_type: NDArray[np.int64],
        time_ratio: float,
        num_threads: int | None,
    ) -> None:
        """Take what a :class:`Predictor` has made.

        Args:
            backend: on the device.
            halo: of its memory.
            arch: of the network.
            rms: of displacements and velocities, by which targets are scaled.
            species_of_type: (T + 1,) of LAMMPS types, from 1.
            time_ratio: time units of the run in one of the model.
            num_threads: of the CPU.
        """
        memory = backend.memory
        assert isinstance(memory, TensorMemory)
        device = memory.device
        self._backend, self._halo, self._memory = backend, halo, memory
        self._layers = Layers(backend, halo)
        self._conservation = Conservation(arch, rms).to(device)
        self._time_ratio, self._num_threads = time_ratio, num_threads
        self._buffers = Buffers(device)
        self._species_of_type = self._buffers.constant(species_of_type)
        self._edges: ExactEdges | RoomyEdges
        if backend.takes_room:
            self._edges = RoomyEdges(self._buffers, arch.edge_cutoff, memory.dtype)
        else:
            self._edges = ExactEdges(self._buffers, arch.edge_cutoff)
        on_gpu = backend.takes_room and memory.on_device
        record = functools.partial(cuda_graph, device) if on_gpu else None
        self._replay: Replay[_Made] = Replay(record)
        self._limits: tuple[Tensor, ...] | None = None
        self._alone = type(halo) is Halo
        self._interior: Tensor | None = None
        self._boundary: Tensor | None = None
        self._remote = np.empty(0, np.int64)
        self._made: _Made | None = None
        self._state: _Conserved | None = None

    def set_limits(self, limits: DeviceLimits) -> None:
        """Take the limits of a run."""
        self._limits = tuple(self._buffers.constant(each) for each in limits)
        self._buffers.moves += 1  # those of before have lost their place

    def take(self, neighbors: Neighbors) -> None:
        """Take a new neighbor list."""
        with self._memory.settings(self._num_threads):
            self._edges.take(neighbors)
            self._remote = np.arange(neighbors.num_remote)
            self._interior = self._boundary = None
            if neighbors.num_remote:
                own = len(neighbors.first) - 1
                far = np.concatenate([[0], np.cumsum(neighbors.pairs[:, 0] >= own)])
                sees_remote = np.diff(far[neighbors.first]) > 0
                self._interior = self._memory.hold(np.flatnonzero(~sees_remote))
                self._boundary = self._memory.hold(np.flatnonzero(sees_remote))

    def predict(self, state: State, with_remote: bool = False) -> Outcome:
        """Predict the state one time step later; all ranks have to call it.

        Args:
            state: the state now.
            with_remote: for remote nodes, too; all ranks have to agree.

        Raises:
            StepError: something failed on this rank. It has taken part in all exchanges.
        """
        with self._memory.settings(self._num_threads):
            began = time.perf_counter()
            attempt = Attempt()
            self._halo.select(self._remote)
            inputs: _Inputs | None = attempt(self._put, state)
            nodes = Nodes(len(state.masses), len(state.types), self._interior, self._boundary)
            if self._alone:
                numbers = attempt(self._predict_alone, inputs, nodes)
            else:
                numbers = self._predict_among_ranks(inputs, nodes, with_remote, attempt)
            self._halo.end()
            outcome: Outcome | None = attempt(self._outcome, state, inputs, numbers)
            if outcome is None:
                sizes = (len(state.masses), len(self._remote), self._edges.room)
                raise StepError(attempt.reason(*sizes)) from attempt.error
            waited = self._halo.traffic.exchange_seconds
            return outcome._replace(network_seconds=time.perf_counter() - began - waited)

    def _put(self, state: State) -> _Inputs:
        put, steady = self._buffers.put, self._buffers.put_if_changed
        nodes = len(state.types)
        types = steady("types", state.types).long()
        moved = np.ones(nodes, np.uint8) if state.moved is None else state.moved
        masses, system = self._put_atoms(state)
        return _Inputs(
            kinds=self._keep("kinds", types - 1),
            species=self._keep("species", self._species_of_type[types]),
            positions=put("positions", state.node_positions),
            velocities=put("velocities", state.velocities),
            masses=masses,
            cell=put("cell", state.cell),
            moved=steady("moved", moved),
            system=system,
            num_systems=state.num_systems,
            judge=state.judge,
        )

    def _put_atoms(self, state: State) -> tuple[Tensor, Tensor]:
        """Masses and systems of own atoms, (N,) each."""
        systems = state.systems
        if systems is None:
            systems = np.zeros(len(state.masses), np.int64)
        steady = self._buffers.put_if_changed
        return steady("masses", state.masses), steady("systems", systems)

    def _keep(self, name: str, values: Tensor) -> Tensor:
        """In a place of its own, which a recording finds again."""
        return self._buffers.room(name, tuple(values.shape), values.dtype).copy_(values)

    def _first_features(self, inputs: _Inputs, edges: Edges) -> Tensor:
        velocities = inputs.velocities / self._time_ratio
        self._backend.prepare(
            StepArrays(inputs.species, velocities, edges.vectors, edges.first_edge, edges.senders)
        )
        features: Tensor = self._backend.initial_features()
        return features

    def _predict_alone(self, inputs: _Inputs, nodes: Nodes) -> NDArray[np.float64]:
        """All of a step on a single rank, again if there were more edges than room."""

        def work() -> _Made:
            edges = self._edges.find(inputs.positions, inputs.cell)
            attempt = Attempt()
            target = self._layers.run(nodes, lambda: self._first_features(inputs, edges), attempt)
            if attempt.error is not None:
                raise attempt.error
            return self._evaluate(inputs, edges, target)

        while True:
            # Where these are the same, all that a recording reads is in the same place.
            places = (self._edges.room, self._buffers.moves)
            key = (
                nodes.own,
                inputs.num_systems,
                inputs.judge,
                self._edges.num_shifts,
            )
            self._made = self._replay(places, key, work)
            numbers = self._memory.on_host(self._made.report)
            if not self._make_room(int(numbers[CHECKS + 1])):
                return numbers

    def _predict_among_ranks(
        self, inputs: _Inputs | None, nodes: Nodes, with_remote: bool, attempt: Attempt
    ) -> NDArray[np.float64] | None:
        def find() -> Edges:
            assert inputs is not None
            while True:
                edges = self._edges.find(inputs.positions, inputs.cell)
                if not self._make_room(int(edges.found)):
                    return edges

        def first_features() -> Tensor:
            assert inputs is not None and edges is not None
            return self._first_features(inputs, edges)

        def evaluate() -> NDArray[np.float64]:
            assert inputs is not None and edges is not None
            self._made = self._evaluate(inputs, edges, target)
            return self._memory.on_host(self._made.report)

        edges: Edges | None = attempt(find)
        target = self._layers.run(nodes, first_features, attempt)
        if with_remote:
            target = self._layers.with_remote(nodes, target, attempt)
        numbers: NDArray[np.float64] | None = attempt(evaluate)
        return numbers

    def _make_room(self, found: int) -> bool:
        """Whether there was too little room for edges; then there is more now."""
        if found <= self._edges.room:
            return False
        self._edges.make_room(found)
        return True

    def _evaluate(self, inputs: _Inputs, edges: Edges, target: Tensor) -> _Made:
        own = len(inputs.masses)
        scaled = self._conservation.scale(target.double())
        rows = torch.cat([scaled.displacement, scaled.velocity * self._time_ratio], dim=1)
        broken = (~rows[:own].isfinite()).any(dim=1).sum()
        sums = self._conservation.linear_sums(
            Prediction(scaled.displacement[:own], scaled.velocity[:own]),
            inputs.velocities[:own] / self._time_ratio,
            inputs.masses,
            inputs.system,
            inputs.num_systems,
        )
        checks = self._checks(inputs, edges, rows)
        counts = torch.stack([broken, edges.found]).double()
        return _Made(rows, torch.cat([checks, counts, sums.flatten()]))

    def _checks(self, inputs: _Inputs, edges: Edges, rows: Tensor) -> Tensor:
        """Return (CHECKS,) what the guard of the fix adds up (`fix_src/guard.cpp`)."""
        if not inputs.judge or self._limits is None:
            return rows.new_zeros(CHECKS)
        displacements, speeds, distances, nearest = self._limits
        own, known = len(inputs.masses), len(rows)
        kinds = inputs.kinds[:own]
        moved = inputs.moved[:own].double()
        mass = moved * inputs.masses
        squares = rows.view(known, 2, 3).square().sum(dim=2)
        before = inputs.velocities[:own].square().sum(dim=1)
        beyond = (squares[:own, 0] > displacements[kinds].square()).double()
        beyond += (squares[:own, 1] > speeds[kinds].square()).double()
        beyond += (before > speeds[kinds].square()).double()
        # Those of remote nodes are known if the limits between neighbors need them.
        moves = torch.zeros_like(inputs.positions)
        moves[:known] = rows[:, :3] * inputs.moved[:known].unsqueeze(1)
        pairs = self._edges.judge(
            edges, Neighborhood(moves, inputs.moved, inputs.kinds, distances, nearest)
        )
        momentum = (mass.unsqueeze(1) * rows[:own, 3:]).sum(dim=0)
        return torch.cat(
            [
                ((moved * beyond).sum() + pairs.sum()).view(1),
                moved.sum().view(1),
                mass.sum().view(1),
                momentum,
                (mass * squares[:own, 1]).sum().view(1),
            ]
        )

    def _outcome(self, state: State, inputs: _Inputs, numbers: NDArray[np.float64]) -> Outcome:
        own = len(state.masses)
        assert self._made is not None
        rows = self._made.rows[:own]
        motion = Prediction(rows[:, :3], rows[:, 3:] / self._time_ratio)
        self._begin(state, inputs.velocities[:own], inputs.masses, inputs.system, motion)
        return Outcome(
            sums=numbers[CHECKS + 2 :],
            checks=numbers[:CHECKS],
            num_broken=int(numbers[CHECKS]),
            num_edges=int(numbers[CHECKS + 1]),
            network_seconds=0.0,
        )

    def _begin(
        self, state: State, velocities: Tensor, masses: Tensor, system: Tensor, motion: Prediction
    ) -> None:
        turns = self._conservation.conserve_angular
        unwrapped = self._buffers.put("unwrapped", state.positions[: len(masses) * turns])
        self._state = _Conserved(
            motion, unwrapped, velocities / self._time_ratio, masses, system, state.num_systems
        )

    def rows(self, out: NDArray[np.float64]) -> None:
        """Write the rows of the last prediction, its momentum not restored, as many as fit.

        Args:
            out: (any, 6) displacement, Angstrom; velocity, units of the run.
        """
        assert self._made is not None
        torch.from_numpy(out).copy_(self._made.rows[: len(out)])

    def adopt(self, state: State, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take a prediction that was made of several for the last one, as :class:`Predictor` does.

        Args:
            state: that it begins from; node positions and cell do not matter.
            rows: (N, 6) displacements, Angstrom, and velocities, in the units of the run.
        """
        own = len(state.masses)
        with self._memory.settings(self._num_threads):
            values = self._buffers.put("adopted", rows)
            motion = Prediction(values[:, :3], values[:, 3:] / self._time_ratio)
            velocities = self._buffers.put("adopted velocities", state.velocities[:own])
            masses, system = self._put_atoms(state)
            self._begin(state, velocities, masses, system, motion)
            sums = self._conservation.linear_sums(
                motion, velocities / self._time_ratio, masses, system, state.num_systems
            )
            return self._memory.on_host(sums).ravel()

    def conserve(self, sums: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Restore the momentum of the last prediction: one round of it, as :class:`Predictor` does.

        Args:
            sums: those of the prediction or of the round before, over all ranks.
            rows: (N, 6) filled by the last round.
        """
        state, layer = self._state, self._conservation
        assert state is not None, "nothing has been predicted"
        with self._memory.settings(self._num_threads):
            total = self._buffers.put("sums", sums.reshape(state.num_systems, -1))
            motion, unwrapped, velocities, masses, system, number, _, centers = state
            more: Tensor | None = None
            if state.round == 0:
                motion = layer.apply_linear(motion, total, system)
                if layer.conserve_angular:
                    more = layer.center_sums(motion, unwrapped, masses, system, number)
            elif state.round == 1:
                centers = total.clone()
                more = layer.angular_sums(
                    motion, unwrapped, velocities, masses, centers, system, number
                )
            else:
                assert centers is not None
                motion = layer.apply_angular(motion, unwrapped, centers, total, system)
            if more is not None:
                self._state = state._replace(motion=motion, centers=centers, round=state.round + 1)
                return self._memory.on_host(more).ravel()
            self._state = None
            result = [motion.displacement, motion.velocity * self._time_ratio]
            torch.from_numpy(rows).copy_(torch.cat(result, dim=1))
            return np.empty(0)
