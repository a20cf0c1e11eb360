"""The models that come with the examples beside what they were learned from, in LAMMPS."""

import json
from pathlib import Path

import pytest
import yaml
from test_validate import invoke

from lammps_trajcast.model.file import ModelFile

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# Errors of few frames scatter about those in the model file, which are of 500 pairs.
MARGIN = 1.5
# ps: long enough to leave the start of the example, too short to judge more than single steps.
LENGTHS = {
    "quartz": {"equilibration": 3, "production": 1.2, "nve": 1.5},
    "water": {"equilibration": 0.5, "production": 0.2, "nve": 0.2},
    "paracetamol": {"equilibration": 2, "production": 0.28, "nve": 0.28},
}
MODELS = sorted(EXAMPLES.glob("*/*.safetensors"))


@pytest.mark.parametrize("path", MODELS, ids=[path.stem for path in MODELS])
def test_shipped_model_was_trained_on_its_elements(path: Path) -> None:
    data = ModelFile.load(path).metadata
    assert data.limits is not None
    assert all(data.limits.has_seen(k) for k in range(len(data.species)))


@pytest.mark.usefixtures("forked_runs")
@pytest.mark.parametrize("path", MODELS, ids=[path.stem for path in MODELS])
def test_shipped_model_steps_as_its_reference(path: Path, tmp_path: Path) -> None:
    """Single steps in LAMMPS end where the reference's own integrator does."""
    config = yaml.safe_load((path.parent / "validate.yaml").read_text())
    config["system"] = str(path.parent / config["system"])
    config["lengths"]["short"] = {**LENGTHS[path.parent.name], "blocks": 2, "one_step": 10}
    config.pop("diffusion", None)
    (tmp_path / "validate.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    status, _, err = invoke("validate", tmp_path / "validate.yaml", "--model", path)
    assert status in (0, 2), err
    (report,) = (tmp_path / "validation").glob("*.json")
    checks = {
        check["name"]: check["value"]
        for chapter in json.loads(report.read_text())["chapters"]
        for part in chapter["parts"]
        for check in part["checks"]
    }
    provenance = ModelFile.load(path).metadata.provenance
    for target in ("displacement", "velocity"):
        stated = float(provenance[f"test_error_{target}"])
        assert 0.0 < checks[f"{target}, one step"] < MARGIN * stated
    assert checks["failures in 1 run"] == 0
