"""Wrong inputs of every kind: one error that names the fix, what is wrong and what to write.

Commands that only a run refuses are in test_fix_errors.py, several MPI ranks in
test_fix_mpi_errors.py, the command line in test_cli.py.
"""

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from locations import PARITY
from reliability import wrong_input
from runs import refusals
from safetensors.torch import save_file
from systems import System, load_case

from lammps_trajcast.model.file import HEADER_KEY, ModelFile

FIX = "python/trajcast"
REMEDY = "fix ID group python/trajcast MODEL El1 El2"


# ---- model files ------------------------------------------------------------------------------


class _Bomb:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def forge(content: bytes, change: Callable[[dict], object]) -> bytes:
    """The model file with other metadata."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    metadata = json.loads(header["__metadata__"][HEADER_KEY])
    change(metadata)
    header["__metadata__"] = {HEADER_KEY: json.dumps(metadata)}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


class Good(NamedTuple):
    """A model file with nothing wrong."""

    content: bytes
    model: ModelFile


def content(change: Callable[[bytes], bytes]) -> Callable[[Path, Good], object]:
    return lambda path, good: path.write_bytes(change(good.content))


def metadata(change: Callable[[dict], object]) -> Callable[[Path, Good], object]:
    return content(lambda whole: forge(whole, change))


def with_nan(path: Path, good: Good) -> None:
    name = "embedding.linear.weight"
    broken = good.model.state_dict[name].clone()
    broken[1] = float("nan")
    ModelFile(good.model.metadata, {**good.model.state_dict, name: broken}).save(path)


def in_half_precision(path: Path, good: Good) -> None:
    state = {name: tensor.half() for name, tensor in good.model.state_dict.items()}
    save_file(state, path, metadata={HEADER_KEY: good.model.metadata.model_dump_json()})


# Of a data set with atoms of the first element alone.
WITHOUT_OXYGEN = {
    **{"max_displacement": [0.3, None], "rms_displacement": [0.1, None]},
    **{"max_speed": [0.02, None], "rms_speed": [0.005, None]},
    **{"min_distance": [[2.2, None], [None, None]], "max_nearest_distance": [2.5, None]},
    **{"min_temperature": 280.0, "mean_temperature": 300.0, "max_temperature": 330.0},
}

# What is put under the name of a model file, and what the error has to say.
FILES: dict[str, tuple[Callable[[Path, Good], object], str]] = {
    "empty file": (content(lambda whole: b""), "not a whole model file"),
    "half a model file": (
        content(lambda whole: whole[: len(whole) // 2]),
        "not a whole model file",
    ),
    "model file but for its last byte": (
        content(lambda whole: whole[:-1]),
        "not a whole model file",
    ),
    "one bit of a weight flipped": (
        content(lambda whole: whole[:-3] + bytes([whole[-3] ^ 4]) + whole[-2:]),
        "checksum",
    ),
    "text file": (content(lambda whole: b"model: TrajCast\n" * 20), "not a whole model file"),
    "weight that is NaN": (with_nan, "embedding.linear.weight is not finite"),
    "weights in half precision": (in_half_precision, "not float32 or float64"),
    "metadata of 10^9 channels": (
        metadata(lambda data: data["architecture"].update(num_hidden_channels=10**9)),
        "num_hidden_channels",
    ),
    "metadata without the time step": (
        metadata(lambda data: data.pop("timestep")),
        "timestep: missing",
    ),
    "model file of a later version": (
        metadata(lambda data: data.update(format_version=2)),
        "install the release that wrote it",
    ),
    "model whose training data hold no atom of an element": (
        metadata(lambda data: data.update(limits=WITHOUT_OXYGEN)),
        "never trained on O",
    ),
    "directory": (lambda path, good: path.mkdir(), "give the path of a .safetensors file"),
    "link to itself": (lambda path, good: path.symlink_to(path), "cannot be read"),
    "safetensors file of something else": (
        lambda path, good: save_file({"a": torch.zeros(3)}, path),
        "lammps-trajcast convert",
    ),
    "checkpoint of torch": (
        lambda path, good: shutil.copy(PARITY / "tiny_cell/state_dict.pt", path),
        "not a whole model file",
    ),
    "pickle that runs code": (
        lambda path, good: path.write_bytes(pickle.dumps(_Bomb(path.with_name("it_ran")))),
        "not a whole model file",
    ),
}


# ---- scripts ----------------------------------------------------------------------------------


class Case(NamedTuple):
    """Arguments of the fix, changes of the script, and what the error has to say."""

    says: str
    arguments: str = "MODEL Si O"
    extra: str = ""  # commands after the fix
    pair: str | None = None
    timestep: float | None = None
    units: str = "real"


EMPTY_BOX = "region box block 0 10 0 10 0 10\ncreate_box 2 box\nmass 1 28.085\nmass 2 15.999"
OVERLAY = "pair_style hybrid/overlay zero 5.0 full lj/cut 3.0\npair_coeff * * zero\n" + (
    "pair_coeff * * lj/cut 0.1 1.5"
)

CASES = {
    # arguments
    "no arguments": Case(REMEDY, ""),
    "no elements": Case(REMEDY, "MODEL"),
    "too few elements": Case("one chemical symbol for each atom type", "MODEL Si"),
    "too many elements": Case("one chemical symbol for each atom type", "MODEL Si O O"),
    "keyword with a typo": Case(
        "unknown keyword 'reversable': write one of", "MODEL Si O reversable yes"
    ),
    "element unknown to the model": Case("one of Si, O", "MODEL Si Xe"),
    "element in lower case": Case("one of Si, O", "MODEL si O"),
    "unknown keyword": Case("device, precision, kernels", "MODEL Si O device cpu speed fast"),
    "keyword without a value": Case("write one after it", "MODEL Si O device"),
    "unknown device": Case("'device auto', 'device cpu' or 'device cuda'", "MODEL Si O device tpu"),
    "unknown precision": Case("'precision single'", "MODEL Si O precision half"),
    "precision of a GPU on a CPU": Case("'precision single'", "MODEL Si O precision tf32"),
    "precision of a GPU without torch": Case(
        "'precision single'", "MODEL Si O kernels direct precision tf32"
    ),
    "unknown kernels": Case(
        "'kernels fused', 'kernels direct' or 'kernels plain'", "MODEL Si O kernels fast"
    ),
    "unknown restart": Case("'restart check' or 'restart allow'", "MODEL Si O restart maybe"),
    "no threads": Case("'threads N'", "MODEL Si O threads 0"),
    "a negative number of threads": Case("'threads N'", "MODEL Si O threads -2"),
    "threads in words": Case("'threads N'", "MODEL Si O threads two"),
    "more threads than can be": Case("'threads N'", "MODEL Si O threads 99999999999"),
    "conserve neither yes nor no": Case(
        "'conserve yes' or 'conserve no'", "MODEL Si O conserve on"
    ),
    "conserve without a potential": Case("'energy PAIR conserve yes'", "MODEL Si O conserve yes"),
    "energy of a pair style that is not there": Case(
        "hybrid/overlay", "MODEL Si O energy vashishta"
    ),
    "energy of a sub-style that is not there": Case(
        "has no sub-style vashishta", "MODEL Si O energy vashishta", pair=OVERLAY
    ),
    "conserve with a thermostat": Case(
        "'conserve no'",
        "MODEL Si O energy lj/cut conserve yes",
        pair=OVERLAY,
        extra="fix 2 all temp/csvr 300 300 100 1",
    ),
    # model files
    "model file that does not exist": Case("no such model file", "nowhere.safetensors Si O"),
    "name of 300 letters": Case("cannot be read", f"{'a' * 300} Si O"),
    **{
        name: Case(says, f"{name.replace(' ', '_')}.safetensors Si O")
        for name, (_, says) in FILES.items()
    },
    # physics
    "units lj": Case("'units metal' or 'units real'", units="lj"),
    "units si": Case("'units metal' or 'units real'", units="si"),
    "units electron": Case("'units metal' or 'units real'", units="electron"),
    "time step of 1 fs": Case("'timestep 30'", timestep=1.0),
    "time step of zero": Case("'timestep 30'", timestep=0.0),
    "negative time step": Case("'timestep 30'", timestep=-30.0),
    "heavier atoms": Case("'mass 1 28.085'", extra="mass 1 30"),
    "cutoff of the pair style too short": Case(
        "'pair_style zero 5 full'", pair="pair_style zero 4.9 full\npair_coeff * *"
    ),
    "no pair style": Case("'pair_style zero 5 full'", pair=""),
    "second integrator": Case("'unfix 2'", extra="fix 2 all nve"),
    "thermostat that integrates": Case("'unfix 2'", extra="fix 2 all nvt temp 300 300 100"),
    "two fixes of this kind": Case("'unfix 2'", extra="fix 2 all python/trajcast MODEL Si O"),
    "rigid bodies of the same atoms": Case(
        "'unfix 2'", extra="group two id 1 2\nfix 2 two rigid single"
    ),
    "time step changed while running": Case(
        "'timestep 30'", extra="fix 2 all dt/reset 1 0.1 1.0 0.01"
    ),
}


@pytest.fixture(scope="module")
def quartz() -> System:
    return load_case("quartz_l2")


def scripts(quartz: System, model: Path) -> dict[str, str]:
    made = {}
    for name, case in CASES.items():
        script = quartz.script(
            model,
            2,
            units=case.units if case.units in ("real", "metal") else "real",
            pair=case.pair,
            fix=f"fix 1 all {FIX} {case.arguments}",
            extra=case.extra,
            timestep=case.timestep,
        )
        made[name] = script.replace("units real", f"units {case.units}").replace(
            "MODEL", str(model)
        )
    made["two dimensions"] = f"""
units real
dimension 2
region box block 0 10 0 10 -0.1 0.1
create_box 2 box
fix 1 all {FIX} {model} Si O
"""
    made["atoms without IDs"] = f"""
units real
atom_modify id no
{EMPTY_BOX}
fix 1 all {FIX} {model} Si O
"""
    made["a good script"] = quartz.script(model, 2)
    return made


SAYS = {name: case.says for name, case in CASES.items()} | {
    "two dimensions": "'dimension 3'",
    "atoms without IDs": "'atom_modify id yes'",
}


@pytest.fixture(scope="module")
def met(quartz, model_file, tmp_path_factory) -> tuple[dict[str, str | None], Path]:
    """What LAMMPS says to each, and where it ran."""
    directory = tmp_path_factory.mktemp("wrong")
    good = model_file("quartz_l2")
    whole = Good(good.read_bytes(), ModelFile.load(good))
    for name, (make, _) in FILES.items():
        make(directory / f"{name.replace(' ', '_')}.safetensors", whole)
    quartz.write_data(directory / "system.data")
    return refusals(scripts(quartz, good), directory), directory


@pytest.mark.parametrize("case", SAYS)
def test_refused(case, met, record_property) -> None:
    """One error; the process goes on to the next case, so nothing hangs and nothing dies."""
    message = met[0][case]
    assert message is not None, "not refused"
    assert FIX in message and SAYS[case] in message
    wrong_input(record_property, case, SAYS[case])


def test_a_good_script_is_not_refused(met) -> None:
    """After all those that were."""
    assert met[0]["a good script"] is None


def test_messages_are_all_there_is(met) -> None:
    assert "Traceback" not in (met[1] / "output").read_text()


def test_nothing_of_a_model_file_is_run(met) -> None:
    path = met[1] / "pickle_that_runs_code.safetensors"
    assert not (met[1] / "it_ran").exists()
    pickle.loads(path.read_bytes())
    assert (met[1] / "it_ran").exists(), "the pickle itself is a dud"


def test_states_that_are_no_error(lmp, model_file) -> None:
    """No atoms at all: nothing to do, as with any integrator."""
    run = lmp(f"""
units real
{EMPTY_BOX}
pair_style zero 5.0 full
pair_coeff * *
timestep 30
fix 1 all {FIX} {model_file("quartz_l2")} Si O
run 3
""")
    assert run.returncode == 0 and "Loop time" in run.output, run.output


# ---- environments ------------------------------------------------------------------------------

TORCHES = {
    "torch that does not load": 'raise ImportError("libtorch_cpu.so: cannot open shared object")',
    "torch too old": '__version__ = "1.4.0"',
    "no torch": 'raise ModuleNotFoundError("No module named \'torch\'", name="torch")',
}


@pytest.mark.parametrize("case", TORCHES)
def test_wrong_torch(case, lmp, quartz, model_file, tmp_path, record_property) -> None:
    (tmp_path / "other/torch").mkdir(parents=True)
    (tmp_path / "other/torch/__init__.py").write_text(TORCHES[case])
    run = lmp(
        quartz.script(model_file("quartz_l2")),
        quartz,
        environment={"PYTHONPATH": str(tmp_path / "other")},
    )
    says = "pip install lammps-trajcast"
    assert FIX in run.error() and "torch" in run.error() and says in run.error()
    assert run.returncode != 0
    wrong_input(record_property, case, says)
