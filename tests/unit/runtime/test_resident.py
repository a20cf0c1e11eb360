"""Steps that stay on the device of the network, on tensors of the CPU or of a GPU.

Without a GPU the kernels of Triton run in its interpreter, see test_triton.py.
"""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from models import tiny_model

from lammps_trajcast.runtime.buffers import Buffers
from lammps_trajcast.runtime.device_edges import (
    EdgeFinder,
    ExactEdges,
    Neighborhood,
    Neighbors,
    RoomyEdges,
)
from lammps_trajcast.runtime.errors import StepError
from lammps_trajcast.runtime.predictor import Frame, Predictor
from lammps_trajcast.runtime.replay import FIRST_CALLS, MOST_KEYS, Replay
from lammps_trajcast.runtime.resident import DeviceLimits, ResidentStep, State

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch only")
from lammps_trajcast.kernels.triton import convolution  # noqa: E402
from lammps_trajcast.runtime.triton_backend import TritonBackend  # noqa: E402

DEVICE = torch.device("cpu" if convolution.INTERPRETED else "cuda")
if DEVICE.type == "cuda" and not torch.cuda.is_available():
    pytest.skip("TRITON_INTERPRET=0 and no GPU", allow_module_level=True)


class Crowd:
    """Atoms in a small tilted box, their candidates, and the edges among them by brute force."""

    def __init__(self, cutoff: float = 3.0, own: int = 7) -> None:
        rng = np.random.default_rng(8)
        self.cell = np.array([5.0, 6.0, 7.0, 0.4, -0.7, 1.1])
        xx, yy, zz, yz, xz, xy = self.cell
        vectors = np.array([[xx, 0, 0], [xy, yy, 0], [xz, yz, zz]])
        self.own, self.remote = own, 11 - own
        nodes = self.own + self.remote
        self.positions = rng.random((nodes, 3)) @ vectors
        shifts = np.array(list(itertools.product((-1, 0, 1), repeat=3)), np.int32)
        first, pairs, edges, receivers = [0], [], [], []
        for i in range(self.own):
            for j in rng.permutation(nodes):
                for s in rng.permutation(len(shifts)):
                    vector = self.positions[j] + shifts[s] @ vectors - self.positions[i]
                    if i == 6 or (i == j and not shifts[s].any()):  # the last sees nobody
                        continue
                    if np.linalg.norm(vector) < 1.3 * cutoff:
                        pairs.append((j, s))
                        if np.linalg.norm(vector) < cutoff:
                            receivers.append(i)
                            edges.append((j, vector))
            first.append(len(pairs))
        self.neighbors = Neighbors(
            np.array(first), np.array(pairs, np.int32), shifts, num_remote=self.remote
        )
        self.cutoff = cutoff
        self.receivers = np.array(receivers)
        self.senders = np.array([j for j, _ in edges])
        self.vectors = np.array([vector for _, vector in edges])

    def finder(self, kind: str) -> EdgeFinder:
        buffers = Buffers(torch.device(DEVICE))
        if kind == "exact":
            return ExactEdges(buffers, self.cutoff)
        return RoomyEdges(buffers, self.cutoff, torch.float64)

    def state(self) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(torch.from_numpy(x).to(DEVICE) for x in (self.positions, self.cell))


@pytest.mark.parametrize("kind", ["exact", "roomy"])
def test_edges_are_found_in_the_order_of_the_candidates(kind: str) -> None:
    crowd = Crowd()
    finder = crowd.finder(kind)
    finder.take(crowd.neighbors)
    count = len(crowd.senders)
    edges = finder.find(*crowd.state())
    if kind == "roomy":
        # Too little room: those that fit, and how many there are.
        finder.room = count // 2
        part = finder.find(*crowd.state())
        assert int(part.found) == count and int(part.first_edge[-1]) == count // 2
        np.testing.assert_array_equal(part.senders.cpu(), crowd.senders[: count // 2])
        finder.make_room(count)
        edges = finder.find(*crowd.state())
    assert int(edges.found) == count
    first_edge = np.searchsorted(crowd.receivers, np.arange(crowd.own + 1))
    np.testing.assert_array_equal(edges.first_edge.cpu(), first_edge)
    np.testing.assert_array_equal(edges.senders[:count].cpu(), crowd.senders)
    np.testing.assert_allclose(edges.vectors[:count].cpu(), crowd.vectors, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ["exact", "roomy"])
def test_limits_between_neighbors_are_counted(kind: str) -> None:
    crowd = Crowd()
    finder = crowd.finder(kind)
    finder.take(crowd.neighbors)
    edges = finder.find(*crowd.state())
    rng = np.random.default_rng(9)
    nodes = len(crowd.positions)
    moved = rng.random(nodes) < 0.7
    displacements = 0.5 * rng.standard_normal((nodes, 3)) * moved[:, None]
    kinds = rng.integers(0, 2, nodes)
    distances = np.array([[2.2, 2.6], [2.6, 1.9]])
    nearest = np.array([1.4, np.inf])
    wanted = np.zeros(crowd.own, int)
    least = np.full((crowd.own, 2), crowd.cutoff)
    for i, j, vector in zip(crowd.receivers, crowd.senders, crowd.vectors, strict=True):
        after = np.linalg.norm(vector + displacements[j] - displacements[i])
        pair = (np.linalg.norm(vector), after)
        least[i] = np.minimum(least[i], pair)
        if j > i and (moved[i] or moved[j]):
            wanted[i] += sum(distance < distances[kinds[i], kinds[j]] for distance in pair)
    for i in range(crowd.own):
        if moved[i] and kinds[i] == 0:
            wanted[i] += sum(least[i] > nearest[0])
    assert wanted.sum() > 5 and wanted[-1] == 2 * (moved[6] and kinds[6] == 0)
    around = (displacements, moved.astype(np.uint8), kinds, distances, nearest)
    arrays = (torch.from_numpy(x).to(DEVICE) for x in around)
    np.testing.assert_array_equal(finder.judge(edges, Neighborhood(*arrays)).cpu(), wanted)


class Rank:
    """A single rank with a crowd, a model of random weights, and both kinds of steps of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **architecture: object) -> None:
        monkeypatch.setattr(convolution, "MIN_LANES", 1024)  # the interpreter counts operations
        self.crowd = Crowd(own=11)
        rng = np.random.default_rng(10)
        self.types = rng.integers(1, 3, 11).astype(np.int32)
        self.velocities = 2.0 * rng.standard_normal((11, 3))
        self.masses = np.array([28.085, 15.999])[self.types - 1]
        self.model = tiny_model(
            architecture={"edge_cutoff": 3.0, "num_mp_layers": 2, **architecture}
        )
        self.predictor = Predictor(
            self.model, ["Si", "O"], "metal", "cpu", "double", kernels="plain"
        )

    def resident(self, kernels: str) -> ResidentStep:
        step = self.predictor.resident()
        if kernels == "triton":
            self.predictor._backend = TritonBackend(self.model.build(torch.float64).to(DEVICE))
            step = self.predictor.resident()
        step.take(self.crowd.neighbors)
        return step

    def state(self, **fields: object) -> State:
        return State(
            types=self.types,
            positions=self.crowd.positions + 0.5,
            velocities=self.velocities,
            masses=self.masses,
            node_positions=self.crowd.positions,
            cell=self.crowd.cell,
        )._replace(**fields)

    def frame(self) -> Frame:
        crowd = self.crowd
        return Frame(
            types=self.types,
            positions=crowd.positions + 0.5,
            velocities=self.velocities,
            masses=self.masses,
            first_edge=np.searchsorted(crowd.receivers, np.arange(12)),
            senders=crowd.senders,
            edge_vectors=crowd.vectors,
        )


def finished(step: ResidentStep, state: State) -> np.ndarray:
    sums, rows = step.predict(state).sums, np.full((len(state.masses), 6), np.nan)
    while len(sums):
        sums = step.conserve(sums, rows)
    return rows


@pytest.mark.parametrize("kernels", ["plain", "triton"])
@pytest.mark.parametrize("turns", [False, True])
def test_a_step_is_that_of_the_host(
    kernels: str, turns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a few steps, so that the room for edges is found, and with one that nobody recorded."""
    rank = Rank(monkeypatch, conserve_ang_mom=turns)
    wanted = rank.predictor.step(rank.frame())
    step = rank.resident(kernels)
    for _ in range(2):
        rows = finished(step, rank.state())
        np.testing.assert_allclose(rows[:, :3], wanted.displacements, rtol=0, atol=1e-12)
        np.testing.assert_allclose(rows[:, 3:], wanted.velocities, rtol=0, atol=1e-10)
    if kernels == "triton":
        step._edges.room = 3
        np.testing.assert_array_equal(finished(step, rank.state()), rows)
        assert step._edges.room > len(rank.crowd.senders)


@pytest.mark.parametrize("kernels", ["plain", "triton"])
def test_a_recording_reads_the_state_of_each_step(
    kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other positions, velocities, boxes and a new list after it; on a CPU the work is kept."""
    rank = Rank(monkeypatch)
    step = rank.resident(kernels)
    recorded: list[object] = []

    def keep(work: Callable[[], object]) -> Callable[[], object]:
        recorded.append(work)
        return work

    if DEVICE.type == "cpu":
        step._replay = Replay(keep)
    limits = DeviceLimits(*np.full((2, 2), np.inf), np.full((2, 2), 2.4), np.full(2, np.inf))
    step.set_limits(limits)
    rng = np.random.default_rng(11)
    for number in range(FIRST_CALLS + 5):
        rank.velocities = 2.0 * rng.standard_normal((11, 3))
        if number == FIRST_CALLS + 3:
            step.take(rank.crowd.neighbors._replace(pairs=rank.crowd.neighbors.pairs.copy()))
        scale = 1.0 + 1e-3 * number
        cell, positions = rank.crowd.cell * scale, rank.crowd.positions * scale
        state = rank.state(node_positions=positions, cell=cell, judge=True)
        rows = finished(step, state)
        checks = step.predict(state).checks
        fresh = rank.resident(kernels)
        fresh.set_limits(limits)
        np.testing.assert_allclose(rows, finished(fresh, state), rtol=0, atol=1e-12)
        np.testing.assert_array_equal(checks, fresh.predict(state).checks)
    assert step._replay._recorded and (recorded or DEVICE.type == "cuda")


def test_what_the_host_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    rank = Rank(monkeypatch)
    step = rank.resident("plain")
    raw = rank.predictor.predict(rank.frame())
    outcome = step.predict(rank.state())
    assert outcome.num_edges == len(rank.crowd.senders)
    assert outcome.num_broken == 0 and not outcome.checks.any()  # nobody asked for them
    np.testing.assert_allclose(outcome.sums, raw.sums, rtol=1e-11, atol=1e-12)
    rows = np.empty((11, 6))
    step.rows(rows)
    np.testing.assert_allclose(rows, raw.rows, rtol=0, atol=1e-10)

    moved = (np.arange(11) % 3 > 0).astype(np.uint8)
    free = np.full(2, np.inf)
    lengths = np.linalg.norm(raw.rows[:, :3], axis=1)
    speeds = np.linalg.norm(raw.rows[:, 3:], axis=1)
    before = np.linalg.norm(rank.velocities, axis=1)
    limits = DeviceLimits(
        np.array([np.median(lengths), np.inf]), np.array([np.inf, 3.0]), np.zeros((2, 2)), free
    )
    step.set_limits(limits)
    checks = step.predict(rank.state(judge=True, moved=moved)).checks
    kinds, m = rank.types - 1, rank.masses * moved
    beyond = (lengths > limits.displacements[kinds]).astype(int)
    beyond += (speeds > limits.speeds[kinds]).astype(int) + (before > limits.speeds[kinds])
    assert checks[0] == (moved * beyond).sum() > 0
    wanted = [moved.sum(), m.sum(), *(m @ raw.rows[:, 3:]), (m * speeds**2).sum()]
    np.testing.assert_allclose(checks[1:], wanted, rtol=1e-10)

    broken = rank.velocities.copy()
    broken[4] = np.nan
    assert step.predict(rank.state(velocities=broken)).num_broken > 0


def test_an_error_names_the_size_of_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    rank = Rank(monkeypatch)
    step = rank.resident("plain")

    def prepare(_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(rank.predictor._backend, "prepare", prepare)
    with pytest.raises(StepError, match="out of memory with 11 atoms, 0 atoms of other ranks"):
        step.predict(rank.state())


def test_a_recording_stands_for_the_work() -> None:
    """Recorded after some calls, once for each key; the oldest key makes room."""
    done: list[str] = []
    recorded: list[Callable[[], int]] = []

    def record(work: Callable[[], int]) -> Callable[[], int]:
        recorded.append(work)
        return lambda: -work()

    replay: Replay[int] = Replay(record)

    def work(name: str) -> Callable[[], int]:
        def run() -> int:
            done.append(name)
            return len(done)

        return run

    for call in range(1, FIRST_CALLS + 3):
        result = replay(0, "a", work("a"))
        assert (result < 0) == (call > FIRST_CALLS) == bool(recorded)
    assert len(recorded) == 1
    for key in range(MOST_KEYS):
        assert replay(0, key, work("b")) > 0
    assert replay(0, "a", work("a")) > 0  # forgotten
    assert len(done) == FIRST_CALLS + 3 + MOST_KEYS

    while replay(0, "a", work("a")) > 0:
        pass
    replay(1, "b", work("b"))  # elsewhere in memory: nothing recorded is of use
    assert replay(0, "a", work("a")) > 0


def test_work_that_cannot_be_recorded_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def record(_: Callable[[], int]) -> Callable[[], int]:
        raise RuntimeError("operation not permitted when stream is capturing")

    replay: Replay[int] = Replay(record)
    assert [replay(0, "a", lambda: 7) for _ in range(FIRST_CALLS + 4)] == [7] * (FIRST_CALLS + 4)
    assert caplog.text.count("steps go on without CUDA graphs") == 1
