"""The bodies of the functions in `fix_src/trajcast_bridge.h`.

Nothing is decided here: pointers become NumPy views, exceptions become messages.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lammps_trajcast.warning_filters import not_fatal

with not_fatal():
    import numpy as np
    from numpy.typing import NDArray

    from lammps_trajcast.model.file import ModelFileError
    from lammps_trajcast.runtime.errors import PredictorError, StepError
    from lammps_trajcast.runtime.ffi_bridge import ABORT, FAILED, OK, FfiBridge
    from lammps_trajcast.runtime.halo import HaloError, adopt_communicator
    from lammps_trajcast.runtime.predictor import Frame, MpiContext, Predictor

if TYPE_CHECKING:
    from lammps_trajcast.runtime.resident import ResidentStep, State


class Bridge(FfiBridge):
    """The models that the fixes of this process have open."""

    def __init__(self, ffi: Any) -> None:
        """Use the `ffi` object of the compiled bridge, or any that knows its structures."""
        super().__init__(ffi)
        self._models: dict[int, Predictor] = {}
        self._residents: dict[int, ResidentStep] = {}  # of those that find edges themselves
        self._num_rows: dict[int, int] = {}  # own atoms of the last prediction of each
        self._num_nodes: dict[int, int] = {}  # atoms that it has rows for
        self._next_handle = 1

    def open(self, config: Any, handle: Any, info: Any, message: Any) -> int:
        """Body of `trajcast_functions.open`."""

        def load() -> None:
            text = [self._text(config.elements[k]) for k in range(config.num_types)]
            predictor = Predictor.from_file(
                self._text(config.model_path),
                text,
                units=self._text(config.units),
                device=self._text(config.device),
                precision=self._text(config.precision),
                num_threads=config.num_threads,
                kernels=self._text(config.kernels),
                place=self._place(config) if config.num_ranks > 1 else None,
            )
            info.timestep = predictor.timestep
            info.cutoff = predictor.cutoff
            info.has_energy = predictor.energy_cutoff is not None
            info.energy_cutoff = predictor.energy_cutoff or 0.0
            info.conserves_angular_momentum = predictor.conserves_angular_momentum
            info.takes_angular_momentum = predictor.takes_angular_momentum
            info.shares_device = predictor.shares_device
            info.finds_edges = predictor.finds_edges
            info.fingerprint = predictor.fingerprint.encode()
            types = config.num_types
            self._view(info.masses, (types,), np.float64)[:] = predictor.masses
            limits = predictor.limits
            info.has_limits = limits is not None
            if limits is not None:
                info.max_temperature = limits.temperature
                self._view(info.max_displacements, (types,), np.float64)[:] = limits.displacements
                self._view(info.max_speeds, (types,), np.float64)[:] = limits.speeds
                self._view(info.min_distances, (types, types), np.float64)[:] = limits.distances
                self._view(info.max_nearest_distances, (types,), np.float64)[:] = (
                    limits.nearest_distances
                )
            handle[0] = self._next_handle
            self._models[self._next_handle] = predictor
            if predictor.finds_edges:
                self._residents[self._next_handle] = predictor.resident()
            self._next_handle += 1

        return self._reporting_errors(load, message)

    def plan(self, handle: int, halo: Any, message: Any) -> int:
        """Body of `trajcast_functions.plan`."""

        def plan() -> None:
            m = halo.num_candidates
            self._models[handle].halo.plan(
                self._view(halo.ranks, (m,), np.int32), self._view(halo.indices, (m,), np.int64)
            )

        return self._reporting_errors(plan, message, unexpected=ABORT)

    def candidates(self, handle: int, neighbors: Any, message: Any) -> int:
        """Body of `trajcast_functions.candidates`."""

        def take() -> None:
            from lammps_trajcast.runtime.device_edges import Neighbors

            first = self._view(neighbors.first, (neighbors.num_atoms + 1,), np.int64)
            self._residents[handle].take(
                Neighbors(
                    first,
                    self._view(neighbors.pairs, (int(first[-1]), 2), np.int32),
                    self._view(neighbors.shifts, (neighbors.num_shifts, 3), np.int32),
                    neighbors.num_remote,
                )
            )

        return self._reporting_errors(take, message)

    def limit(self, handle: int, limits: Any, message: Any) -> int:
        """Body of `trajcast_functions.limit`."""

        def limit() -> None:
            from lammps_trajcast.runtime.resident import DeviceLimits

            t = len(self._models[handle].masses)
            self._residents[handle].set_limits(
                DeviceLimits(
                    self._view(limits.displacements, (t,), np.float64),
                    self._view(limits.speeds, (t,), np.float64),
                    self._view(limits.distances, (t, t), np.float64),
                    self._view(limits.nearest_distances, (t,), np.float64),
                )
            )

        return self._reporting_errors(limit, message)

    def predict(self, handle: int, frame: Any, prediction: Any, message: Any) -> int:
        """Body of `trajcast_functions.predict`."""

        def predict() -> None:
            predictor, resident = self._models[handle], self._residents.get(handle)
            with_remote = bool(frame.remote_rows)
            if resident is not None:
                outcome = resident.predict(self._state(frame), with_remote)
                self._fill_sums(prediction, outcome.sums)
                self._view(prediction.checks, outcome.checks.shape, np.float64)[:] = outcome.checks
                prediction.num_broken = outcome.num_broken
                prediction.num_edges = outcome.num_edges
                prediction.network_seconds = outcome.network_seconds
            else:
                raw = predictor.predict(self._frame(frame), with_remote)
                self._view(prediction.rows, raw.rows.shape, np.float64)[:] = raw.rows
                self._fill_sums(prediction, raw.sums)
                prediction.network_seconds = raw.network_seconds
            traffic = predictor.halo.traffic
            prediction.exchange_seconds = traffic.exchange_seconds
            prediction.bytes_received = traffic.bytes_received
            prediction.rows_sent = traffic.rows_sent
            self._num_rows[handle] = frame.num_atoms
            self._num_nodes[handle] = frame.num_atoms + with_remote * frame.num_remote

        return self._reporting_errors(predict, message, unexpected=ABORT)

    def rows(self, handle: int, prediction: Any, message: Any) -> int:
        """Body of `trajcast_functions.rows`."""

        def fetch() -> None:
            rows = self._view(prediction.rows, (self._num_nodes[handle], 6), np.float64)
            self._residents[handle].rows(rows)

        return self._reporting_errors(fetch, message, unexpected=ABORT)

    def adopt(self, handle: int, frame: Any, prediction: Any, message: Any) -> int:
        """Body of `trajcast_functions.adopt`."""

        def adopt() -> None:
            n = frame.num_atoms
            rows = self._view(prediction.rows, (n, 6), np.float64)
            resident = self._residents.get(handle)
            if resident is not None:
                sums = resident.adopt(self._state(frame), rows)
            else:
                sums = self._models[handle].adopt(self._frame(frame), rows)
            self._fill_sums(prediction, sums)
            self._num_rows[handle] = n

        return self._reporting_errors(adopt, message, unexpected=ABORT)

    def conserve(self, handle: int, prediction: Any, message: Any) -> int:
        """Body of `trajcast_functions.conserve`."""

        def conserve() -> None:
            rows = self._view(prediction.rows, (self._num_rows[handle], 6), np.float64)
            sums = self._view(prediction.sums, (prediction.num_sums,), np.float64)
            keeper = self._residents.get(handle) or self._models[handle]
            self._fill_sums(prediction, keeper.conserve(sums, rows))

        return self._reporting_errors(conserve, message, unexpected=ABORT)

    def energies(self, handle: int, frame: Any, energies: Any, message: Any) -> int:
        """Body of `trajcast_functions.energies`."""

        def evaluate() -> None:
            wants_virials = energies.virials != self._ffi.NULL
            found = self._models[handle].energies(self._frame(frame), wants_virials)
            self._view(energies.energies, found.energies.shape, np.float64)[:] = found.energies
            if found.virials is not None:
                self._view(energies.virials, found.virials.shape, np.float64)[:] = found.virials

        return self._reporting_errors(evaluate, message)

    def _frame(self, frame: Any) -> Frame:
        n, r, e = frame.num_atoms, frame.num_remote, frame.num_edges
        return Frame(
            types=self._view(frame.types, (n + r,), np.int32),
            positions=self._view(frame.positions, (n, 3), np.float64),
            velocities=self._view(frame.velocities, (n + r, 3), np.float64),
            masses=self._view(frame.masses, (n,), np.float64),
            first_edge=self._view(frame.first_edge, (n + 1,), np.int64),
            senders=self._view(frame.senders, (e,), np.int64),
            edge_vectors=self._view(frame.edge_vectors, (e, 3), np.float64),
            remote=self._view(frame.remote, (r,), np.int64),
            interior=self._indices(frame.interior, frame.num_interior) if r else None,
            boundary=self._indices(frame.boundary, frame.num_boundary) if r else None,
            num_systems=frame.num_systems,
            systems=self._indices(frame.systems, n) if frame.num_systems > 1 else None,
        )

    def _state(self, frame: Any) -> State:
        from lammps_trajcast.runtime.resident import State

        n, m = frame.num_atoms, frame.num_atoms + frame.num_remote
        null = self._ffi.NULL
        return State(
            types=self._view(frame.types, (m,), np.int32),
            positions=self._view(frame.positions, (n, 3), np.float64),
            velocities=self._view(frame.velocities, (m, 3), np.float64),
            masses=self._view(frame.masses, (n,), np.float64),
            node_positions=self._view(frame.node_positions, (m, 3), np.float64),
            cell=self._view(frame.cell, (6,), np.float64),
            moved=None if frame.moved == null else self._view(frame.moved, (m,), np.uint8),
            judge=bool(frame.judge),
            num_systems=frame.num_systems,
            systems=self._indices(frame.systems, n) if frame.num_systems > 1 else None,
        )

    def _fill_sums(self, prediction: Any, sums: NDArray[np.float64]) -> None:
        self._view(prediction.sums, (len(sums),), np.float64)[:] = sums
        prediction.num_sums = len(sums)

    def close(self, handle: int, message: Any) -> int:
        """Body of `trajcast_functions.close`."""
        for kept in (self._models, self._residents, self._num_rows, self._num_nodes):
            kept.pop(handle, None)
        return OK

    def _place(self, config: Any) -> MpiContext:
        communicator = adopt_communicator(
            config.communicator, config.mpi_function, self._text(config.mpi_library)
        )
        return MpiContext(communicator, config.node_rank, config.node_ranks)

    def _indices(self, pointer: Any, count: int) -> NDArray[np.int64]:
        return self._view(pointer, (count,), np.int64)

    def _reporting_errors(
        self, work: Callable[[], None], message: Any, unexpected: int = FAILED
    ) -> int:
        try:
            with not_fatal():
                work()
        except (HaloError, ModelFileError, PredictorError) as error:
            if isinstance(error, StepError) and str(error).startswith("unexpected"):
                traceback.print_exception(error.__cause__, file=sys.stderr)
            self._write(str(error), message)
            return FAILED
        except BaseException as error:  # nothing may pass into C++
            traceback.print_exc(file=sys.stderr)
            self._write(f"unexpected {type(error).__name__}: {error}", message)
            return unexpected
        return OK


_bridge: Bridge | None = None


def register(address: int) -> None:
    """Fill the `trajcast_functions` at this address; called by the library that starts Python."""
    from lammps_trajcast._trajcast_bridge import ffi, lib

    global _bridge
    if _bridge is None:
        _bridge = Bridge(ffi)
        ffi.def_extern(name="trajcast_open", error=FAILED)(_bridge.open)
        ffi.def_extern(name="trajcast_plan", error=ABORT)(_bridge.plan)
        ffi.def_extern(name="trajcast_candidates", error=FAILED)(_bridge.candidates)
        ffi.def_extern(name="trajcast_limit", error=FAILED)(_bridge.limit)
        ffi.def_extern(name="trajcast_predict", error=ABORT)(_bridge.predict)
        ffi.def_extern(name="trajcast_rows", error=ABORT)(_bridge.rows)
        ffi.def_extern(name="trajcast_adopt", error=ABORT)(_bridge.adopt)
        ffi.def_extern(name="trajcast_conserve", error=ABORT)(_bridge.conserve)
        ffi.def_extern(name="trajcast_energies", error=FAILED)(_bridge.energies)
        ffi.def_extern(name="trajcast_close", error=FAILED)(_bridge.close)
    functions = ffi.cast("trajcast_functions *", address)
    functions.open = lib.trajcast_open
    functions.plan = lib.trajcast_plan
    functions.candidates = lib.trajcast_candidates
    functions.limit = lib.trajcast_limit
    functions.predict = lib.trajcast_predict
    functions.rows = lib.trajcast_rows
    functions.adopt = lib.trajcast_adopt
    functions.conserve = lib.trajcast_conserve
    functions.energies = lib.trajcast_energies
    functions.close = lib.trajcast_close
