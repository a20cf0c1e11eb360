"""Model files: what is written is read, and what is wrong is named. Nothing in a file is run."""

import io
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from locations import PARITY
from models import tiny_model
from safetensors.torch import save_file

from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.checkpoint import convert_checkpoint
from lammps_trajcast.model.file import ModelFile, ModelFileError, ModelMetadata, weights_of
from lammps_trajcast.model.limits import Limits

HEADER_KEY = "lammps_trajcast"


LIMITS = Limits(
    max_displacement=(0.3, 0.5),
    rms_displacement=(0.1, 0.13),
    max_speed=(0.02, 0.03),
    rms_speed=(0.005, 0.007),
    min_distance=((2.8, 1.5), (1.5, None)),
    max_nearest_distance=(1.8, None),
    min_temperature=280.0,
    mean_temperature=300.0,
    max_temperature=330.0,
)


@pytest.fixture(scope="module")
def model() -> ModelFile:
    return tiny_model(
        architecture={"num_mp_layers": 2, "net_lin_mom": None},
        metadata={
            "precision": "double",
            "statistics": {"max_speed": 0.02, "pairs": 7},
            "limits": LIMITS,
            "provenance": {"made by": "a test", "nested": {"list": [1, 2]}},
        },
    )


@pytest.fixture
def written(model: ModelFile, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    model.save(path)
    return path


def header_of(path: Path) -> tuple[dict, bytes]:
    """JSON header and tensor bytes, read without the library that wrote them."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def rewrite(path: Path, change) -> None:
    """Change the metadata of a file in place; it has no checksum then, as those of old."""
    header, tensors = header_of(path)
    metadata = json.loads(header["__metadata__"][HEADER_KEY])
    header["__metadata__"] = {HEADER_KEY: json.dumps(change(metadata) or metadata)}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ModelFileError) as error:
        ModelFile.load(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    for word in words:
        assert word in message


def test_round_trip(model: ModelFile, written: Path) -> None:
    back = ModelFile.load(written)
    assert back.metadata == model.metadata
    assert back.fingerprint() == model.fingerprint()
    for name, tensor in model.state_dict.items():
        assert torch.equal(back.state_dict[name], tensor)
    assert written.stat().st_mode & 0o044 == 0o044


def test_header_is_plain_json(written: Path) -> None:
    header, _ = header_of(written)
    metadata = json.loads(header["__metadata__"][HEADER_KEY])
    assert metadata["species"] == ["Si", "O"] and metadata["timestep"] == 30.0
    assert metadata["architecture"]["edge_cutoff"] == 3.5


def test_build_gives_the_network_back(model: ModelFile) -> None:
    again = weights_of(model.build(torch.float64))
    assert again.keys() == model.state_dict.keys()
    for name, tensor in model.state_dict.items():
        assert torch.equal(again[name], tensor)


def test_fingerprint_knows_weights_and_time_step(model: ModelFile) -> None:
    name = "read_out.read_out.weight"
    changed = {**model.state_dict, name: model.state_dict[name] + 1e-9}
    other_step = model.metadata.model_copy(update={"timestep": 20.0})
    other_origin = model.metadata.model_copy(update={"provenance": {}, "limits": None})
    assert ModelFile(model.metadata, changed).fingerprint() != model.fingerprint()
    assert ModelFile(other_step, model.state_dict).fingerprint() != model.fingerprint()
    assert ModelFile(other_origin, model.state_dict).fingerprint() == model.fingerprint()


def test_fingerprint_outlives_a_release(model: ModelFile) -> None:
    """Restart files hold it, and a later release may know more options of a network."""

    class Later(ModelMetadata):
        option: str = "off"

    content = model.metadata.model_dump()
    same = ModelFile(Later(**content), model.state_dict)
    other = ModelFile(Later(**content, option="on"), model.state_dict)
    assert same.fingerprint() == model.fingerprint() != other.fingerprint()


def test_files_without_limits_are_read(written: Path) -> None:
    """As those written before there were any, with the same fingerprint."""
    whole = ModelFile.load(written).fingerprint()
    rewrite(written, lambda metadata: metadata.pop("limits") and None)
    assert ModelFile.load(written).metadata.limits is None
    assert ModelFile.load(written).fingerprint() == whole


def test_limits_of_some_species_in_other_units() -> None:
    turned = LIMITS.of_species([1, 0, 1])
    assert turned.max_displacement == (0.5, 0.3, 0.5)
    assert turned.min_distance == ((None, 1.5, None), (1.5, 2.8, 1.5), (None, 1.5, None))
    metal = turned.converted("real", "metal")
    assert metal.max_speed == pytest.approx((30.0, 20.0, 30.0))
    assert metal.rms_speed == pytest.approx((7.0, 5.0, 7.0))
    assert turned.max_nearest_distance == (None, 1.8, None)
    assert (
        metal.min_distance == turned.min_distance
        and metal.max_nearest_distance == turned.max_nearest_distance
    )


def test_older_names_of_limits_are_read(written: Path) -> None:
    def older(metadata: dict[str, Any]) -> None:
        metadata["limits"]["max_isolation"] = metadata["limits"].pop("max_nearest_distance")

    before = ModelFile.load(written)
    rewrite(written, older)
    after = ModelFile.load(written)
    assert after.metadata.limits == before.metadata.limits == LIMITS
    assert after.fingerprint() == before.fingerprint()


def test_files_without_nearest_distances_are_read(written: Path) -> None:
    """As those written before there was any, with the same fingerprint."""
    whole = ModelFile.load(written).fingerprint()
    rewrite(written, lambda metadata: metadata["limits"].pop("max_nearest_distance") and None)
    limits = ModelFile.load(written).metadata.limits
    assert limits is not None and limits.max_nearest_distance is None
    assert ModelFile.load(written).fingerprint() == whole


def test_absent_file(tmp_path: Path) -> None:
    refused(tmp_path / "no.safetensors", "no such model file")


def test_truncated_anywhere(written: Path) -> None:
    content = written.read_bytes()
    for size in [0, 5, 8, 100, len(content) // 2, len(content) - 1]:
        written.write_bytes(content[:size])
        refused(written, "not a whole model file")


def test_another_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    refused(path, "not of lammps-trajcast", "convert")


@pytest.mark.parametrize(
    "change,words",
    [
        (lambda m: m.update(format_version=2), ["version 2", "version 1"]),
        (lambda m: m.pop("format_version"), ["format_version is missing"]),
        (lambda m: m.pop("timestep"), ["timestep: missing"]),
        (lambda m: m.pop("architecture"), ["architecture: missing"]),
        (lambda m: m["architecture"].pop("edge_cutoff"), ["edge_cutoff: missing"]),
        (lambda m: m.update(timestep=-1.0), ["timestep"]),
        (lambda m: m.update(units="lj"), ["units"]),
        (lambda m: m.update(species=["Si"]), ["2 elements"]),
        (lambda m: m.update(species=["Si", "Si"]), ["twice"]),
        (lambda m: m.update(masses=[1.0, -2.0]), ["masses"]),
        (lambda m: m.update(surprise=1), ["surprise"]),
        (lambda m: m["limits"].update(max_speed=[1.0]), ["limits", "each species"]),
        (lambda m: m["limits"].update(min_distance=[[1.0]] * 10**5), ["limits", "each species"]),
        (lambda m: m["limits"].update(min_distance=[[3, 2], [1, 3]]), ["limits", "symmetric"]),
        (lambda m: m["limits"].update(max_speed=[-1.0, 1.0]), ["limits.max_speed"]),
        (lambda m: m["limits"].pop("rms_speed") and None, ["limits.rms_speed: missing"]),
        (lambda m: m.update(limits=LIMITS.of_species([0]).model_dump()), ["the 2 elements"]),
        (lambda m: m["architecture"].update(num_hidden_channels=8), ["shape"]),
        (lambda m: m["architecture"].update(num_hidden_channels=10**9), ["num_hidden_channels"]),
        (lambda m: m["architecture"].update(num_mp_layers=3), ["interactions.2", "missing"]),
        (lambda m: m["architecture"].update(num_mp_layers=1), ["unknown weight interactions.1"]),
        (lambda m: [1, 2], ["no JSON object"]),
    ],
)
def test_wrong_metadata(written: Path, change, words: list[str]) -> None:
    def apply(metadata: dict):
        result = change(metadata)
        return result if isinstance(result, list) else None

    rewrite(written, apply)
    refused(written, *words)


def test_header_that_is_no_json(written: Path) -> None:
    header, tensors = header_of(written)
    header["__metadata__"][HEADER_KEY] = "{"
    text = json.dumps(header).encode()
    written.write_bytes(struct.pack("<Q", len(text)) + text + tensors)
    refused(written, "not JSON")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(model: ModelFile, tmp_path: Path, value: float) -> None:
    name = "embedding.linear.weight"
    broken = model.state_dict[name].clone()
    broken[1] = value
    path = tmp_path / "nan.safetensors"
    ModelFile(model.metadata, {**model.state_dict, name: broken}).save(path)
    refused(path, name, "not finite")


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    """Neither as a model file nor as a checkpoint does a pickle get to run its code."""
    trace, bomb = tmp_path / "it ran", tmp_path / "bomb.safetensors"
    bomb.write_bytes(pickle.dumps(_Bomb(trace)))
    refused(bomb, "not a whole model file")
    weights = tmp_path / "bomb.pt"
    torch.save({"rms_targets": _Bomb(trace)}, weights)
    with pytest.raises(ModelFileError, match="without running code"):
        convert_checkpoint(PARITY / "tiny_cell" / "config.yaml", weights, ["Si"], None, 5.0, "real")
    assert not trace.exists()
    pickle.loads(bomb.read_bytes())
    assert trace.exists(), "the bomb itself is a dud"


def test_a_failed_write_keeps_the_old_file(model: ModelFile, written: Path, monkeypatch) -> None:
    before = written.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lammps_trajcast.model.file.save_file", full)
    with pytest.raises(ModelFileError, match="No space left"):
        model.save(written)
    assert written.read_bytes() == before
    assert [p.name for p in written.parent.iterdir()] == [written.name]


# -- checkpoints -------------------------------------------------------------------------

CASE = PARITY / "quartz_l2"


def convert(config: Path = CASE / "config.yaml", weights: Path = CASE / "state_dict.pt", **changes):
    options = {"species": ["Si", "O"], "masses": None, "timestep": 30.0, "units": "real", **changes}
    return convert_checkpoint(config, weights, **options)


def test_convert_keeps_every_weight() -> None:
    published = torch.load(CASE / "state_dict.pt", weights_only=True)
    model = convert()
    assert model.metadata.precision == "double"
    assert model.metadata.masses == pytest.approx((28.085, 15.999))
    assert model.metadata.rms_displacement == float(published["rms_targets"][0])
    kept = sum(t.numel() for t in model.state_dict.values())
    trainable = sum(
        v.numel()
        for k, v in published.items()
        if k.endswith("weight") or k.endswith("bessel_roots")
    )
    assert kept == trainable
    assert convert(masses=[29.0, 16.0]).metadata.masses == (29.0, 16.0)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"species": ["Si"]}, "2 elements"),
        ({"species": ["Si", "Xx"]}, "--species Xx"),
        ({"masses": [1.0]}, "--masses gives 1 numbers for 2 species"),
        ({"timestep": -1.0}, "timestep"),
        ({"config": Path("absent.yaml")}, "absent.yaml: cannot be read"),
        ({"weights": Path("absent.pt")}, "absent.pt: cannot be read"),
        ({"config": PARITY / "water_l1" / "config.yaml"}, "max_rotation_order"),
        ({"weights": CASE / "config.yaml"}, "state dict"),
    ],
)
def test_wrong_checkpoints(options, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        convert(**options)


def test_checkpoint_that_lacks_a_weight(tmp_path: Path) -> None:
    state = torch.load(CASE / "state_dict.pt", weights_only=True)
    del state["_int_out.mp_layer_1.tp_resnet.weight"]
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    with pytest.raises(ModelFileError, match="mp_layer_1.tp_resnet.weight is missing"):
        convert(weights=path)


def test_checkpoint_in_half_precision(tmp_path: Path) -> None:
    """Refused here; before, it became a model file that nothing could open."""
    state = torch.load(CASE / "state_dict.pt", weights_only=True)
    path = tmp_path / "weights.pt"
    torch.save({name: tensor.bfloat16() for name, tensor in state.items()}, path)
    with pytest.raises(ModelFileError, match=r"bessel_roots has the type torch.bfloat16, not .*"):
        convert(weights=path)


def test_config_with_and_without_top_level_model(tmp_path: Path) -> None:
    content = yaml.safe_load((CASE / "config.yaml").read_text())
    flat = tmp_path / "flat.yaml"
    flat.write_text(yaml.safe_dump(content.get("model", content)))
    assert convert(config=flat).metadata.architecture == convert().metadata.architecture


def test_architecture_has_no_hidden_limits_on_published_networks() -> None:
    """The largest published network (64 channels, l up to 2, 5 layers) is within bounds."""
    buffer = io.StringIO((CASE / "config.yaml").read_text())
    content = yaml.safe_load(buffer)["model"] | {"num_hidden_channels": 64, "num_mp_layers": 5}
    assert Architecture.model_validate(content).num_hidden_channels == 64
