"""The models that come with the examples beside what they were learned from, in LAMMPS."""

import json
import re
from pathlib import Path

import pytest
import yaml
from locations import EXAMPLES
from quartz_demo import GROUPS
from quartz_run import read_temperatures
from validations import invoke

from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.validation import production

# Errors of few frames scatter about those in the model file, which are of 500 pairs.
MARGIN = 1.5
# ps: long enough to leave the start of the example, too short to judge more than single steps.
LENGTHS = {
    "quartz": {"equilibration": 3, "production": 1.2, "nve": 1.5},
    "water": {"equilibration": 0.5, "production": 0.2, "nve": 0.2},
    "paracetamol": {"equilibration": 2, "production": 0.28, "nve": 0.28},
    "paracetamol_xtb": {"equilibration": 0.4, "production": 0.08, "nve": 0.08},
    "silicon_chgnet": {"equilibration": 0.48, "production": 0.24, "nve": 0.24},
    "silicon_sw": {"equilibration": 0.48, "production": 0.24, "nve": 0.24},
}
MODELS = sorted(EXAMPLES.glob("*/*.safetensors"))


@pytest.mark.parametrize("path", MODELS, ids=[path.stem for path in MODELS])
def test_shipped_model_was_trained_on_its_elements(path: Path) -> None:
    data = ModelFile.load(path).metadata
    assert data.limits is not None
    assert all(data.limits.has_seen(k) for k in range(len(data.species)))


# Of a system that another model is tested with; with reversible steps this one takes a minute.
SECOND = ("quartz_reversible",)


@pytest.mark.usefixtures("forked_runs")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.long] * (path.stem in SECOND))
        for path in MODELS
    ],
)
def test_shipped_model_steps_as_its_reference(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Single steps in LAMMPS end where the reference's own integrator does. Speed is no matter."""
    monkeypatch.setattr(production, "measure", lambda *_, **__: None)
    config = yaml.safe_load((path.parent / "validate.yaml").read_text())
    config["system"] = str(path.parent / config["system"])
    calculator = re.search(r"python/ase (\w+)", Path(config["system"]).read_text())
    if calculator:
        pytest.importorskip(calculator[1])
    config["lengths"]["short"] = {**LENGTHS[path.parent.name], "blocks": 2, "one_step": 10}
    config.pop("diffusion", None)
    (tmp_path / "validate.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    status, _, err = invoke("validate", tmp_path / "validate.yaml", "--model", path)
    assert status in (0, 2, 3), err
    (report,) = (tmp_path / "validation").glob("*.json")
    checks = {
        check["name"]: check["value"]
        for chapter in json.loads(report.read_text())["chapters"]
        for part in chapter["parts"]
        for check in part["checks"]
    }
    file = ModelFile.load(path)
    provenance = file.metadata.provenance
    if file.energy is not None:
        # Of the fluctuation in runs that are too short to show all of it.
        assert checks["potential energy of the model, error over fluctuation"] < 0.2
    for target in ("displacement", "velocity"):
        stated = float(provenance[f"test_error_{target}"])
        assert 0.0 < checks[f"{target}, one step"] < MARGIN * stated
    assert checks["failures in 1 run"] == 0


def test_elements_have_the_temperature_of_the_whole(lmp) -> None:
    """The demo's script keeps elements at one temperature in the crystal of the training's size.

    There a model that heats Si and cools O at the right mean shows it within 10 ps.
    """
    script = (EXAMPLES / "lammps_inputs" / "in.quartz").read_text()
    for pattern, replacement in [
        (r"\.\./quartz/", f"{EXAMPLES}/quartz/"),
        (r"replicate .*", "replicate 3 3 2"),
        (r"run .*", "run 300"),
    ]:
        script, count = re.subn(pattern, replacement, script)
        assert count > 0, pattern
    run = lmp(script)
    assert run.returncode == 0, run.output
    found = read_temperatures(run.directory / "quartz_temperature.dat", GROUPS)
    # 6 ps of 54 Si: chance leaves some 3 %.
    for name, (mean, _) in found.means(skip=0.34).items():
        assert mean == pytest.approx(300.0, rel=0.1), name
