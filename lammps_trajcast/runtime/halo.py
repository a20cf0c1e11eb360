"""What a rank gets from the others in a step: features of remote nodes, and sums over all atoms."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from lammps_trajcast.runtime.memory import Matrix, Memory

if TYPE_CHECKING:
    from mpi4py import MPI


class HaloError(RuntimeError):
    """The ranks cannot work together; says what to do instead."""


@dataclass
class Traffic:
    """What the exchange of one step took, on this rank."""

    exchange_seconds: float = 0.0  # wall time of sending and receiving, waiting included
    bytes_received: int = 0
    rows_sent: int = 0  # atoms whose features other ranks asked for, once for each of those ranks


class Halo:
    """The exchange of one rank alone: nothing.

    In the order of the calls: :meth:`plan` after each change of the order of atoms; in a step,
    :meth:`select`, :meth:`start` and :meth:`finish` for each layer but the first, :meth:`end`. All
    ranks call them alike.

    Attributes:
        traffic: of the step since :meth:`select`.
    """

    def __init__(self) -> None:
        self.traffic = Traffic()

    def plan(self, ranks: NDArray[np.int32], indices: NDArray[np.int64]) -> None:
        """Tell other ranks which of their atoms may be asked for until the next plan.

        Args:
            ranks: (M,) owner of each atom, sorted.
            indices: (M,) int64, its number among the owner's atoms.
        """

    def select(self, remote: NDArray[np.int64]) -> None:
        """Begin a step: ask for the atoms that are its remote nodes.

        Args:
            remote: (R,) places in the last plan, ascending.
        """
        self.traffic = Traffic()

    def start(self, features: Matrix, num_own: int) -> None:
        """Begin to fill the rows of the remote nodes; meanwhile no row may change.

        Args:
            features: (num_own + R, W) contiguous; the rows of own atoms are complete.
            num_own: number of own atoms.
        """

    def finish(self) -> None:
        """Wait until all rows are there, and own rows may change again."""

    def end(self) -> None:
        """End a step, also one of a network whose single layer exchanged nothing."""


class _Peer(NamedTuple):
    """Another rank, and its part of the plan's atoms."""

    rank: int
    begin: int
    end: int


class MpiHalo(Halo):
    """The exchange between several MPI ranks: rank to rank, non-blocking, the rows needed only.

    A plan names all atoms within cutoff and skin. In a step each rank tells the owners, one byte
    an atom, which of them are nodes this time, while the first layer is being computed.
    """

    _PLAN = (4101, 4102)  # message tags; two in turn, for ranks that are already at the next plan
    _MASK = 4103
    _ROWS = 4104

    def __init__(self, communicator: MPI.Comm, memory: Memory) -> None:
        """Exchange between the ranks of a communicator; ``memory`` made the features."""
        from mpi4py import MPI

        super().__init__()
        self._mpi = MPI
        self._comm = communicator
        # Features on a GPU go through pinned memory unless MPI can read them where they are.
        self._staged = memory.on_device and not _is_cuda_aware(MPI)
        self._memory = memory
        self._num_plans = 0
        self._sources: list[_Peer] = []  # whom this rank asks
        self._targets: list[_Peer] = []  # who asks this rank
        self._wanted = np.empty(0, np.uint8)  # (M,) of the plan's atoms, which this rank needs now
        self._asked = np.empty(0, np.uint8)  # (K,) of the atoms others may ask for, which they do
        self._offered = np.empty(0, np.int64)  # (K,) own atoms that others may ask for
        self._masks: list[MPI.Request] = []
        self._pending: list[MPI.Request] = []
        self._incoming: list[_Peer] = []  # of this step, in rows of remote nodes
        self._outgoing: list[_Peer] = []  # of this step, in rows of the send buffer
        self._rows = memory.hold(np.empty(0, np.int64))  # own atoms to send in this step
        self._arriving: tuple[Matrix, Matrix] | None = None  # staged rows, and where they belong

    @override
    def plan(self, ranks: NDArray[np.int32], indices: NDArray[np.int64]) -> None:
        mpi, comm = self._mpi, self._comm
        owners, first, counts = np.unique(ranks, return_index=True, return_counts=True)
        self._sources = [
            _Peer(int(owner), int(begin), int(begin + count))
            for owner, begin, count in zip(owners, first, counts, strict=True)
        ]
        self._wanted = np.zeros(len(ranks), np.uint8)

        # A rank does not know which others need its atoms: all send synchronously, and receive
        # until a barrier that each enters when its own messages have arrived (Hoefler et al.,
        # PPoPP 2010).
        tag = self._PLAN[self._num_plans % 2]
        self._num_plans += 1
        sent = [
            comm.Issend(indices[peer.begin : peer.end], peer.rank, tag) for peer in self._sources
        ]
        offers: dict[int, NDArray[np.int64]] = {}
        barrier: MPI.Request | None = None
        status = mpi.Status()
        while True:
            if comm.Iprobe(mpi.ANY_SOURCE, tag, status):
                offer = np.empty(status.Get_count(mpi.INT64_T), np.int64)
                comm.Recv(offer, status.Get_source(), tag)
                offers[status.Get_source()] = offer
            elif barrier is None:
                if mpi.Request.Testall(sent):
                    barrier = comm.Ibarrier()
            elif barrier.Test():
                break

        self._targets = []
        end = 0
        for rank in sorted(offers):
            begin, end = end, end + len(offers[rank])
            self._targets.append(_Peer(rank, begin, end))
        self._offered = np.concatenate(
            [np.empty(0, np.int64), *(offers[peer.rank] for peer in self._targets)]
        )
        self._asked = np.zeros(len(self._offered), np.uint8)

    @override
    def select(self, remote: NDArray[np.int64]) -> None:
        self.traffic = Traffic()
        began = time.perf_counter()
        self._outgoing = []
        self._rows = self._memory.hold(np.empty(0, np.int64))
        self._wanted[:] = 0
        self._wanted[remote] = 1
        self._masks = [
            self._comm.Irecv(self._asked[peer.begin : peer.end], peer.rank, self._MASK)
            for peer in self._targets
        ]
        self._masks += [
            self._comm.Isend(self._wanted[peer.begin : peer.end], peer.rank, self._MASK)
            for peer in self._sources
        ]
        self._incoming = [
            _Peer(peer.rank, *map(int, np.searchsorted(remote, (peer.begin, peer.end))))
            for peer in self._sources
        ]
        self.traffic.exchange_seconds += time.perf_counter() - began

    def _receive_masks(self) -> None:
        if not self._masks:
            return
        self._mpi.Request.Waitall(self._masks)
        self._masks = []
        asked = self._asked.astype(bool)
        before = np.concatenate([[0], np.cumsum(self._asked, dtype=np.int64)])
        self._outgoing = [
            _Peer(peer.rank, int(before[peer.begin]), int(before[peer.end]))
            for peer in self._targets
        ]
        self._rows = self._memory.hold(self._offered[asked])
        self.traffic.rows_sent = len(self._rows)
        self.traffic.bytes_received += len(asked)

    @override
    def start(self, features: Matrix, num_own: int) -> None:
        began = time.perf_counter()
        self._receive_masks()
        memory, width = self._memory, features.shape[1]
        outgoing = memory.matrix("outgoing", len(self._rows), width, features)
        memory.take(features, self._rows, outgoing)
        incoming = features[num_own:]
        if self._staged:
            host = memory.matrix("pinned outgoing", len(outgoing), width, features, pinned=True)
            host[:] = outgoing
            staged = memory.matrix("pinned incoming", len(incoming), width, features, pinned=True)
            self._arriving = (staged, incoming)
            outgoing, incoming = host, staged
        memory.synchronize()
        self._pending = [
            self._comm.Irecv(memory.for_mpi(incoming[peer.begin : peer.end]), peer.rank, self._ROWS)
            for peer in self._incoming
            if peer.end > peer.begin
        ]
        self._pending += [
            self._comm.Isend(memory.for_mpi(outgoing[peer.begin : peer.end]), peer.rank, self._ROWS)
            for peer in self._outgoing
            if peer.end > peer.begin
        ]
        self.traffic.bytes_received += len(incoming) * width * features.itemsize
        self.traffic.exchange_seconds += time.perf_counter() - began

    @override
    def finish(self) -> None:
        began = time.perf_counter()
        self._mpi.Request.Waitall(self._pending)
        self._pending = []
        if self._arriving is not None:
            staged, rows = self._arriving
            rows[:] = staged
            self._arriving = None
        self.traffic.exchange_seconds += time.perf_counter() - began

    @override
    def end(self) -> None:
        began = time.perf_counter()
        self._receive_masks()
        self.traffic.exchange_seconds += time.perf_counter() - began


def _is_cuda_aware(mpi: Any) -> bool:
    try:
        return bool(ctypes.CDLL(mpi.__file__).MPIX_Query_cuda_support())
    except (OSError, AttributeError):
        return False


def adopt_communicator(handle: int, mpi_function: int, library: str) -> MPI.Comm:
    """Return LAMMPS's communicator for mpi4py.

    Args:
        handle: of the communicator in Fortran.
        mpi_function: address of PMPI_Comm_rank in the library that LAMMPS uses.
        library: what that library says of itself.

    Raises:
        HaloError: mpi4py is not installed, or uses another MPI library than LAMMPS.
    """
    try:
        import mpi4py

        # LAMMPS has started MPI, and what MPI does about errors is for LAMMPS to say.
        mpi4py.rc.initialize = False
        mpi4py.rc.finalize = False
        mpi4py.rc.errors = "default"
        from mpi4py import MPI
    except ModuleNotFoundError as error:
        raise HaloError(
            f"several MPI ranks need mpi4py, which is not installed ({error}): run 'pip install "
            "mpi4py'"
        ) from None
    except (ImportError, RuntimeError) as error:
        raise HaloError(
            f"several MPI ranks need mpi4py, which is installed but cannot be loaded ({error}): "
            "set the environment variable MPI4PY_LIBMPI to the libmpi.so of LAMMPS's MPI "
            f"('{_first_line(library)}'), or build mpi4py with its mpicc in PATH: pip install "
            "--force-reinstall --no-binary mpi4py mpi4py"
        ) from None
    own = ctypes.CDLL(MPI.__file__).PMPI_Comm_rank
    if ctypes.cast(own, ctypes.c_void_p).value != mpi_function:
        theirs = MPI.Get_library_version()
        raise HaloError(
            f"LAMMPS uses the MPI library '{_first_line(library)}' but mpi4py uses "
            f"'{_first_line(theirs)}', another one or another copy: run 'pip install "
            "--force-reinstall --no-binary mpi4py mpi4py' with the mpicc of LAMMPS's MPI in PATH"
        )
    return MPI.Comm.f2py(handle)


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return " ".join(lines[0].split()) if lines else "unknown"
