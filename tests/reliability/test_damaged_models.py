"""Model files cut off or changed at random places: refused, or the same model after all."""

import json
import random
import struct
from pathlib import Path

import pytest
import torch
from fuzzing import fuzz, mutations
from hypothesis import strategies as st
from models import tiny_model
from reliability import fault
from safetensors.torch import save_file

from lammps_trajcast.model.file import CHECKSUM_KEY, HEADER_KEY, ModelFile, ModelFileError

PLACES = 200


@pytest.fixture(scope="module")
def model() -> ModelFile:
    extra = {"statistics": {"max_speed": 0.02}, "provenance": {"made by": "a test"}}
    return tiny_model(metadata=extra)


@pytest.fixture
def content(model: ModelFile, tmp_path: Path) -> bytes:
    model.save(tmp_path / "whole.safetensors")
    return (tmp_path / "whole.safetensors").read_bytes()


def header_and_tensors(content: bytes) -> tuple[dict, bytes]:
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def packed(header: dict, tensors: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def without_checksum(content: bytes) -> bytes:
    header, tensors = header_and_tensors(content)
    del header["__metadata__"][CHECKSUM_KEY]
    return packed(header, tensors)


def opened(path: Path) -> ModelFile | None:
    """The model; None if the file is refused in the way that the command line and the fix show."""
    try:
        model = ModelFile.load(path)
    except ModelFileError as error:
        message = str(error)
        assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 2000
        return None
    for tensor in model.state_dict.values():
        assert torch.isfinite(tensor).all()
    return model


def same(a: ModelFile, b: ModelFile) -> bool:
    return a.metadata == b.metadata and all(
        torch.equal(a.state_dict[name], tensor) for name, tensor in b.state_dict.items()
    )


def test_cut_off_at_random_places(model, content, tmp_path, record_property) -> None:
    path = tmp_path / "cut.safetensors"
    for size in random.Random(1).sample(range(len(content)), PLACES):
        path.write_bytes(content[:size])
        assert opened(path) is None, size
    result = f"all {PLACES} refused with one line that names the file"
    name = f"model file cut off at {PLACES} random places"
    fault(record_property, name, result)


@pytest.mark.parametrize("kind", ["with a checksum", "without (old files)"])
def test_flipped_bits(kind, model, content, tmp_path, record_property) -> None:
    """With a checksum, what is not refused is the same model; without, its numbers are finite."""
    if "without" in kind:
        content = without_checksum(content)
    dice, path, refused = random.Random(2), tmp_path / "flipped.safetensors", 0
    # Half of them in the header, which is the smaller part of most files.
    header = 8 + struct.unpack("<Q", content[:8])[0]
    places = dice.sample(range(header), PLACES // 2)
    places += dice.sample(range(header, len(content)), PLACES // 2)
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        found = opened(path)
        refused += found is None
        if "without" not in kind and found is not None:
            assert same(found, model), place
    # What remains is the name of the checksum itself, and letters that stand for themselves.
    assert refused > PLACES * (0.8 if kind == "with a checksum" else 0.3)
    rest = "the rest open as the same model" if "without" not in kind else "the rest finite"
    name = f"a bit flipped at {PLACES} random places of a model file {kind}"
    fault(record_property, name, f"{refused} refused with one line that names the file, {rest}")


def test_old_files_open(model, content, tmp_path) -> None:
    path = tmp_path / "old.safetensors"
    path.write_bytes(without_checksum(content))
    found = opened(path)
    assert found is not None and same(found, model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64])
def test_weights_of_another_type(dtype, model, content, tmp_path) -> None:
    path = tmp_path / "half.safetensors"
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict.items()}
    with pytest.raises(ModelFileError, match="not float32 or float64"):
        ModelFile(model.metadata, state)
    metadata = header_and_tensors(without_checksum(content))[0]["__metadata__"]
    save_file(state, path, metadata=metadata)
    with pytest.raises(ModelFileError, match="not float32 or float64"):
        ModelFile.load(path)


# ---- fuzzing ---------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


def fuzz_bytes(content: bytes, path: Path, seconds: float) -> int:
    def check(damaged: bytes) -> None:
        path.write_bytes(damaged)
        opened(path)

    return fuzz(check, mutations(content), seconds=seconds)


def fuzz_metadata(content: bytes, path: Path, seconds: float) -> int:
    """Any JSON in place of any entry of the metadata, checksums being as they were."""
    header, tensors = header_and_tensors(without_checksum(content))
    metadata = json.loads(header["__metadata__"][HEADER_KEY])
    places = [(key,) for key in metadata]
    places += [("architecture", key) for key in metadata["architecture"]]

    def check(place: tuple[str, ...], value: object, extra: str) -> None:
        forged = json.loads(json.dumps(metadata))
        inner = forged[place[0]] if len(place) == 2 else forged
        inner[place[-1]] = value
        if extra:
            inner[extra] = value
        header["__metadata__"][HEADER_KEY] = json.dumps(forged)
        path.write_bytes(packed(header, tensors))
        found = opened(path)
        if found is not None:
            found.fingerprint()

    extra = st.just("") | st.text(max_size=8)
    return fuzz(check, st.sampled_from(places), JSON, extra, seconds=seconds)


def test_fuzzed(content, tmp_path) -> None:
    path = tmp_path / "fuzzed.safetensors"
    assert fuzz_bytes(content, path, 0.0) and fuzz_metadata(content, path, 0.0)


@pytest.mark.long
def test_fuzzed_long(content, tmp_path, fuzz_seconds, record_property) -> None:
    path = tmp_path / "fuzzed.safetensors"
    tried = fuzz_bytes(content, path, fuzz_seconds / 2)
    tried += fuzz_metadata(content, path, fuzz_seconds / 2)
    result = f"{tried} files in {fuzz_seconds:.0f} s: each refused with one line, or finite numbers"
    fault(record_property, "model file, fuzzed", result)
