"""The runtime without LAMMPS: the predictor, and the bridge on the structures that C++ fills."""

import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from locations import PARITY, PARITY_CASES
from models import tiny_model
from reference import Reference, assert_close
from systems import System, load_case

from lammps_trajcast.describe import describe_limits
from lammps_trajcast.kernels.triton import tf32
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.model.limits import Limits
from lammps_trajcast.runtime import shared_kernels
from lammps_trajcast.runtime.bridge import ABORT, FAILED, OK, Bridge
from lammps_trajcast.runtime.devices import check_tf32, find_device
from lammps_trajcast.runtime.graph import build_graph
from lammps_trajcast.runtime.halo import Halo, Traffic
from lammps_trajcast.runtime.predictor import Frame, Predictor, PredictorError


def frame_of(system: System) -> Frame:
    graph = build_graph(system.positions, system.cell, system.pbc, system.cutoff)
    return Frame(
        types=system.types.astype(np.int32),
        positions=system.positions,
        velocities=system.velocities,
        masses=system.atom_masses,
        first_edge=np.searchsorted(graph.receivers.numpy(), np.arange(len(system.types) + 1)),
        senders=graph.senders.numpy(),
        edge_vectors=graph.edge_vectors.numpy(),
    )


@pytest.mark.parametrize("name", PARITY_CASES)
def test_predictor_gives_the_published_step(name, model_file) -> None:
    system = load_case(name)
    published = np.load(PARITY / name / "expected.npz")
    predictor = Predictor.from_file(str(model_file(name)), system.elements, precision="double")
    after = predictor.step(frame_of(system))
    assert_close(after.displacements, published["displacement"] @ system.rotation, 1e-10)
    assert_close(after.velocities, published["velocity"] @ system.rotation, 1e-10)
    assert predictor.cutoff == system.cutoff
    assert list(predictor.masses) == system.masses


@pytest.mark.parametrize("at_rest", [False, True])
def test_elements_without_training_are_refused(at_rest: bool) -> None:
    """Not one whose atoms never moved: they are what the others saw."""
    near = 1.6 if at_rest else None
    limits = Limits(
        max_displacement=(0.3, None),
        rms_displacement=(0.1, None),
        max_speed=(0.02, None),
        rms_speed=(0.005, None),
        min_distance=((2.2, near), (near, None)),
        max_nearest_distance=(2.5, near),
        min_temperature=280.0,
        mean_temperature=300.0,
        max_temperature=330.0,
    )
    model = tiny_model(metadata={"limits": limits})
    assert limits.has_seen(0) and limits.has_seen(1) == at_rest
    assert ("no atom of O" in describe_limits(model)) != at_rest
    Predictor(model, ["Si"])
    if at_rest:
        Predictor(model, ["Si", "O"])
    else:
        with pytest.raises(PredictorError, match="never trained on O: .* no atom of this element"):
            Predictor(model, ["Si", "O"])


def test_tables_are_made_once(model_file, tmp_path, monkeypatch) -> None:
    """A second opening finds those of the first; other weights or another precision do not."""
    made: list[str] = []

    class Watched(shared_kernels.NetworkKernels):
        def __init__(self, arch, weights, precision, tolerance) -> None:
            made.append(precision)
            super().__init__(arch, weights, precision, tolerance)

    monkeypatch.setattr(shared_kernels, "NetworkKernels", Watched)
    monkeypatch.setattr(shared_kernels, "_last", None)
    monkeypatch.setattr(shared_kernels, "_kernels", weakref.WeakValueDictionary())
    path, elements = str(model_file("quartz_l2")), ["Si", "O"]
    other = ModelFile.load(path)
    name = "interactions.0.linear_updates.weight"
    other.weights[name] *= 1.1
    other.save(tmp_path / "other.safetensors")
    frame = frame_of(load_case("quartz_l2"))

    def step(path: str, **options: str) -> tuple[Predictor, np.ndarray]:
        predictor = Predictor.from_file(path, elements, **options)
        return predictor, predictor.step(frame).velocities

    one, first = step(path, precision="double")
    # At the same time and, since it was the last, after both are closed.
    two, second = step(path, precision="double")
    assert len(made) == 1
    del one, two
    again, third = step(path, precision="double")
    assert len(made) == 1
    assert np.array_equal(first, second) and np.array_equal(first, third)

    _, single = step(path, precision="single")
    assert made == ["double", "single"]
    _, changed = step(str(tmp_path / "other.safetensors"), precision="double")
    assert len(made) == 3
    assert np.abs(changed - first).max() > 10.0 * np.abs(single - first).max()
    # Nothing holds those that neither were the last nor are in use.
    assert len(shared_kernels._kernels) == 2
    del again
    assert len(shared_kernels._kernels) == 1


def test_numbers_of_edges_change_and_results_stay_right(model_file) -> None:
    """A compiled network must not remember the shapes that it saw first."""
    model, rng = model_file("quartz_l2"), np.random.default_rng(7)
    system = load_case("quartz_l2")
    predictor = Predictor.from_file(str(model), system.elements, precision="double")
    reference = Reference(model)
    counts = set()
    for _ in range(5):
        system.positions = system.positions + 0.1 * rng.normal(size=system.positions.shape)
        frame = frame_of(system)
        counts.add(len(frame.senders))
        displacements, velocities = predictor.step(frame)[:2]
        expected = reference.step(system)
        assert_close(displacements, expected[0], 1e-12)
        assert_close(velocities, expected[1], 1e-12)
    assert len(counts) > 1


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (dict(elements=["Si", "Xe"]), "one of Si, O"),
        (dict(units="lj"), "real or metal"),
        (dict(device="tpu"), "auto, cpu or cuda"),
        (dict(precision="half"), "model, single, double or tf32"),
        (dict(precision="tf32", device="cpu"), "write 'precision single'"),
        (dict(precision="tf32", device="cpu", kernels="plain"), "write 'precision single'"),
        (dict(precision="tf32", kernels="direct"), "write 'precision single'"),
    ],
)
def test_predictor_refuses(arguments, remedy, model_file) -> None:
    model = ModelFile.load(model_file("quartz_l2"))
    with pytest.raises(PredictorError, match=remedy):
        Predictor(model, **{"elements": ["Si", "O"], **arguments})


def test_fused_kernels_on_a_gpu_without_triton(model_file, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setitem(sys.modules, "triton", None)  # as if it were not installed
    with pytest.raises(PredictorError, match="'kernels plain' or 'device cpu'"):
        Predictor(ModelFile.load(model_file("quartz_l2")), ["Si", "O"], device="cuda")


@pytest.mark.parametrize(
    ("kernels", "capability", "is_cut", "reason"),
    [
        ("plain", (9, 0), False, "is for a CUDA GPU and 'kernels fused'"),
        ("fused", (7, 5), False, "the GPU Some GPU has no TF32"),
        ("fused", (9, 0), True, "the GPU Some GPU cuts numbers off"),
        ("fused", (9, 0), False, None),
    ],
)
def test_tf32_on_a_gpu(monkeypatch, kernels, capability, is_cut, reason) -> None:
    """What a GPU has to be like; none is needed to find out."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    monkeypatch.setattr(tf32, "is_cut_on", lambda _: is_cut)
    if reason is None:
        check_tf32(torch.device("cuda"), kernels)
        return
    with pytest.raises(PredictorError, match=f"{reason}.*write 'precision single'"):
        check_tf32(torch.device("cuda"), kernels)


class Caller:
    """What the C++ side does, in Python."""

    def __init__(self) -> None:
        from lammps_trajcast._trajcast_bridge import ffi

        self.ffi = ffi
        self.bridge = Bridge(ffi)
        self.alive: list[object] = []  # cffi frees what nothing refers to

    def keep(self, value: object) -> object:
        self.alive.append(value)
        return value

    def pointer(self, kind: str, array: np.ndarray) -> object:
        return self.keep(self.ffi.from_buffer(kind, array))

    def message(self, capacity: int = 4096) -> object:
        text = self.keep(self.ffi.new("char[]", capacity))
        return self.keep(self.ffi.new("trajcast_message *", {"text": text, "capacity": capacity}))

    def config(self, path: str, elements: list[str]) -> object:
        text = [self.keep(self.ffi.new("char[]", element.encode())) for element in elements]
        fields = {
            "model_path": self.keep(self.ffi.new("char[]", path.encode())),
            "elements": self.keep(self.ffi.new("char *[]", text)),
            "num_types": len(elements),
            "num_threads": 1,
        }
        for name, value in (
            ("units", b"metal"),
            ("device", b"cpu"),
            ("precision", b"double"),
            ("kernels", b"plain"),
        ):
            fields[name] = self.keep(self.ffi.new("char[]", value))
        return self.keep(self.ffi.new("trajcast_config *", fields))


def test_start_does_without_the_compiler(model_file) -> None:
    """Importing it takes longer than everything else until the first step."""
    program = f"""
import sys
from lammps_trajcast.runtime.predictor import Predictor
for precision in ("single", "double"):
    Predictor.from_file({str(model_file("quartz_l2"))!r}, ["Si", "O"], precision=precision)
print([name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stderr


def test_bridge_opens_steps_and_closes(model_file) -> None:
    system, call = load_case("quartz_l2"), Caller()
    ffi = call.ffi
    masses = np.zeros(2)
    info = ffi.new("trajcast_model_info *", {"masses": call.pointer("double[]", masses)})
    handle, message = ffi.new("int64_t *"), call.message()
    config = call.config(str(model_file("quartz_l2")), system.elements)
    assert call.bridge.open(config, handle, info, message) == OK
    assert (info.timestep, info.cutoff) == (30.0, 5.0)
    assert list(masses) == system.masses

    frame = frame_of(system)._replace(velocities=system.velocities * 1000.0)
    fields = {
        name: call.pointer(kind, np.ascontiguousarray(getattr(frame, name)))
        for name, kind in (
            ("types", "int32_t[]"),
            ("positions", "double[]"),
            ("velocities", "double[]"),
            ("masses", "double[]"),
            ("first_edge", "int64_t[]"),
            ("senders", "int64_t[]"),
            ("edge_vectors", "double[]"),
        )
    }
    counts = {"num_atoms": len(frame.types), "num_edges": len(frame.senders), "num_systems": 1}
    c_frame = ffi.new("trajcast_frame *", {**fields, **counts})
    rows = np.zeros((len(frame.types), 6))
    arrays = {"rows": rows, "sums": np.zeros(16)}
    prediction = ffi.new(
        "trajcast_prediction *", {k: call.pointer("double[]", a) for k, a in arrays.items()}
    )
    assert call.bridge.predict(handle[0], c_frame, prediction, message) == OK
    reference = Reference(model_file("quartz_l2"))
    for conserve in (False, True):
        while conserve and prediction.num_sums:
            assert call.bridge.conserve(handle[0], prediction, message) == OK
        expected = reference.step(system, conserve)
        assert_close(rows[:, :3], expected[0], 1e-12)
        assert_close(rows[:, 3:] / 1000.0, expected[1], 1e-12)

    assert call.bridge.close(handle[0], message) == OK
    assert call.bridge.predict(handle[0], c_frame, prediction, message) == ABORT


def test_bridge_reports_and_keeps_to_the_buffer(tmp_path) -> None:
    call = Caller()
    absent = str(tmp_path / "absent.safetensors")
    for capacity in (4096, 20):
        message = call.message(capacity)
        info = call.ffi.new("trajcast_model_info *")
        handle = call.ffi.new("int64_t *")
        assert call.bridge.open(call.config(absent, ["Si"]), handle, info, message) == FAILED
        text = call.ffi.string(message.text).decode()
        assert absent[: capacity - 1].startswith(text[:10])
        assert len(text) < capacity


def test_each_rank_takes_the_gpu_of_its_number(monkeypatch) -> None:
    """Ranks on a machine share GPUs in turns where there are too few."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = [find_device("auto", rank) for rank in range(4)]
    assert found == [torch.device("cuda", number) for number in (0, 1, 0, 1)]
    assert find_device("cpu", 3) == torch.device("cpu")


def test_one_rank_exchanges_nothing() -> None:
    halo = Halo()
    halo.plan(np.empty(0, np.int32), np.empty(0, np.int64))
    halo.select(np.empty(0, np.int64))
    features = torch.arange(6.0).view(3, 2)
    halo.start(features, 3)
    halo.finish()
    halo.end()
    assert features.flatten().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert halo.traffic == Traffic()


@pytest.mark.parametrize("precision", ["single", "double"])
def test_kernels_without_torch_are_those_with_it(precision, model_file) -> None:
    """To the last bit: the same kernels, and one code for what is around them."""
    system, path = load_case("benzene_angular"), str(model_file("benzene_angular"))
    steps = [
        Predictor.from_file(
            path, system.elements, precision=precision, kernels=kernels, num_threads=2
        ).step(frame_of(system))
        for kernels in ("fused", "direct")
    ]
    for fused, direct in zip(*steps, strict=True):
        assert np.array_equal(fused, direct)


@pytest.mark.parametrize("kernels", ["fused", "direct"])
def test_floating_point_errors_of_the_host_do_not_matter(kernels, model_file) -> None:
    """Speeds that single precision does not know, and a number of no molecule in between."""
    path, system = str(model_file("benzene_angular")), load_case("benzene_angular")
    count = len(system.types)
    frame = frame_of(system)._replace(
        velocities=1e-50 * system.velocities,
        num_systems=2,
        systems=np.ones(count, np.int64),
    )
    predictor = Predictor.from_file(path, system.elements, precision="single", kernels=kernels)
    with np.errstate(all="raise"):
        step = predictor.step(frame)
        assert np.geterr()["over"] == "raise"
    assert np.isfinite(step.velocities).all()


@pytest.mark.parametrize(
    ("order", "device", "words"),
    [
        (1, "cuda", "kernels direct run on the CPU, not with device cuda: write 'device cpu' or"),
        (4, "cpu", "rotation orders end at 3, those of this model at 4: write 'kernels fused'"),
    ],
)
def test_where_kernels_without_torch_do_not_serve(order, device, words) -> None:
    model = tiny_model(architecture={"max_rotation_order": order})
    with pytest.raises(PredictorError, match=words):
        Predictor(model, ["Si"], kernels="direct", device=device)


def test_a_machine_without_torch(model_file) -> None:
    """A model runs without it where it is asked to, and is told what to write where not."""
    program = f"""
import sys
sys.modules["torch"] = None
from lammps_trajcast.runtime.predictor import Predictor, PredictorError
for kernels in ("direct", "fused"):
    try:
        Predictor.from_file({str(model_file("quartz_l2"))!r}, ["Si", "O"], kernels=kernels)
        print("made")
    except PredictorError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    made, error, *_ = [*run.stdout.splitlines(), "", ""]
    assert made == "made", run.stderr
    assert "cannot use the torch of" in error and "write 'kernels direct'" in error
