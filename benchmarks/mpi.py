"""python -m benchmarks.mpi: several MPI ranks against one, and what that says of many."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.child import in_child
from benchmarks.lammps import ATOMS_OF_CELL, last_loop, network_input, run_lammps
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.report import fill_in, markdown
from benchmarks.rows import Target
from benchmarks.scaling import CostModel, Network, fit, table
from lammps_trajcast.lammps_runs.log import loops_in

RESULTS = Path(__file__).resolve().parent / "results_mpi.json"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "parallel.md"
# The fix's vector, in order.
VECTOR = ("graph", "network", "exchange", "sums", "bytes", "rows", "remote", "own", "most", "peak")
DENSITY = 9.0 / 108.155  # atoms in a cubic Angstrom of quartz
MODELS = {"small": "16 channels", "wide": "64 channels"}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Division:
    """How a run is divided: MPI ranks, and threads of each."""

    ranks: int
    threads: int


ALONE, PAIR, THREADS = Division(1, 1), Division(2, 1), Division(1, 2)


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the defaults are those of the published numbers."""

    cells: tuple[int, int, int] = (8, 8, 8)
    series: tuple[tuple[int, int, int], ...] = ((4, 4, 4), (6, 6, 6))
    tiny: tuple[int, int, int] = (1, 1, 1)
    # The memory of a few thousand atoms is less than what loading a model takes for a moment.
    memory_cells: tuple[int, int, int] = (22, 22, 23)
    memory_steps: int = 2
    rounds: int = 5
    warm_up: int = 3
    steps: int = 12


@dataclass(frozen=True)
class Sample:
    """One run.

    step: s, from LAMMPS's loop time.
    vector: the fix's vector in the last step, by name.
    """

    step: float
    vector: dict[str, float]


def save_model(name: str, path: Path) -> dict[str, float]:
    """Write a model file; return its number of layers, cutoff and bytes of an atom's features."""
    from benchmarks.systems import load_model

    model = load_model(name)
    model.save(path)
    network = model.build()
    return {
        "layers": len(network.interactions),
        "cutoff": model.metadata.architecture.edge_cutoff,
        "row_bytes": 4 * network.interactions[0].irreps_out.dim,
    }


class Bench:
    """Runs of one model, units metal, single precision."""

    def __init__(self, model: Path, cutoff: float, sizes: Sizes) -> None:
        self.model, self.cutoff, self.sizes = model, cutoff, sizes

    def _run(
        self, cells: tuple[int, int, int], division: Division, thermo: int, steps: int, warm_up: int
    ) -> Any:
        script = network_input(
            " ".join(map(str, cells)),
            division.threads,
            steps,
            warm_up,
            thermo,
            " ".join(f"f_1[{k}]" for k in range(1, len(VECTOR) + 1)),
            self.model,
            self.cutoff,
        )
        return run_lammps(script, division.threads, division.ranks)

    def sample(self, cells: tuple[int, int, int], division: Division) -> Sample:
        """Return the time of a step, and the fix's vector after the last."""
        finished = self._run(cells, division, 1_000_000, self.sizes.steps, self.sizes.warm_up)
        columns = loops_in(finished.output)[-1].columns
        vector = {name: columns[f"f_1[{k}]"][-1] for k, name in enumerate(VECTOR, 1)}
        return Sample(last_loop(finished).step_seconds, vector)

    def peak(self, cells: tuple[int, int, int], division: Division) -> float:
        """Return the bytes of memory that the larger process of a short run used at most."""
        finished = self._run(cells, division, 1_000_000, self.sizes.memory_steps, 0)
        return loops_in(finished.output)[-1].columns[f"f_1[{len(VECTOR)}]"][-1]

    def parts(self, cells: tuple[int, int, int], division: Division) -> dict[str, list[float]]:
        """Return the seconds of the fix's parts, and the rest of the vector, step by step."""
        finished = self._run(cells, division, 1, self.sizes.steps, self.sizes.warm_up)
        columns = loops_in(finished.output)[-1].columns
        return {name: columns[f"f_1[{k}]"][1:] for k, name in enumerate(VECTOR, 1)}


def measure(name: str, sizes: Sizes) -> dict[str, Any]:
    """Measure one model: every division in turns, then the parts of a step, then the series.

    Returns:
        what the JSON file holds of a model.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.safetensors"
        info = in_child(save_model, name, path)
        bench = Bench(path, info["cutoff"], sizes)
        divisions = {"alone": ALONE, "pair": PAIR, "threads": THREADS}
        samples: dict[str, list[Sample]] = {key: [] for key in divisions}
        for _ in tqdm(range(sizes.rounds), desc=MODELS[name], unit="round", leave=False):
            for key, division in divisions.items():
                samples[key].append(bench.sample(sizes.cells, division))
        memory = {
            size: {key: bench.peak(cells, divisions[key]) for key in ("alone", "pair")}
            for size, cells in (("start", sizes.tiny), ("run", sizes.memory_cells))
        }
        series = [
            [bench.sample(cells, ALONE).step for _ in range(sizes.rounds)] for cells in sizes.series
        ]
        parts = bench.parts(sizes.cells, PAIR)
    return {
        **info,
        "atoms": ATOMS_OF_CELL * sizes.cells[0] * sizes.cells[1] * sizes.cells[2],
        "samples": {key: [asdict(s) for s in several] for key, several in samples.items()},
        "memory": memory,
        "memory_atoms": ATOMS_OF_CELL
        * sizes.memory_cells[0]
        * sizes.memory_cells[1]
        * sizes.memory_cells[2],
        "series": {
            str(ATOMS_OF_CELL * a * b * c): seconds
            for (a, b, c), seconds in zip(sizes.series, series, strict=True)
        },
        "parts": parts,
    }


def median_step(result: dict[str, Any], division: str) -> float:
    """Return the median time of a step, s."""
    return statistics.median(sample["step"] for sample in result["samples"][division])


def _last(result: dict[str, Any], division: str, entry: str) -> float:
    return result["samples"][division][-1]["vector"][entry]


def exchange_share(result: dict[str, Any]) -> float:
    """Return the seconds of exchange over those of all parts of a step, medians of the steps."""
    medians = {key: statistics.median(result["parts"][key]) for key in VECTOR[:4]}
    return medians["exchange"] / sum(medians.values())


def memory_ratio(result: dict[str, Any], without_start: bool) -> float:
    """Return the peak memory of one of two ranks over that of one alone.

    without_start: count only what is above the peak of a run of nine atoms, in either case.
    """
    memory = result["memory"]
    used = {
        key: memory["run"][key] - (memory["start"][key] if without_start else 0.0)
        for key in ("alone", "pair")
    }
    return used["pair"] / used["alone"]


def targets(results: dict[str, Any]) -> list[tuple[str, str, float, Target]]:
    """Return what | measured with | measured | target."""
    lines = []
    for name, result in results.items():
        label = MODELS[name]
        alone, pair, threads = (median_step(result, key) for key in ("alone", "pair", "threads"))
        lines += [
            ("2 ranks x 1 thread over 1 rank x 1 thread", label, alone / pair, Target(1.85, True)),
            ("2 ranks x 1 thread over 1 rank x 2 threads", label, threads / pair, Target(1, True)),
            (
                "rows exchanged in a layer over distinct remote atoms within the cutoff",
                label,
                _last(result, "pair", "rows") / _last(result, "pair", "remote"),
                Target(1, False),
            ),
            (
                "memory of a rank, 2 ranks over 1 rank",
                f"{label}, {result['memory_atoms']:,} atoms, without the start",
                memory_ratio(result, True),
                Target(0.6, False),
            ),
            (
                "memory of a rank, 2 ranks over 1 rank",
                f"{label}, {result['memory_atoms']:,} atoms, whole process",
                memory_ratio(result, False),
                Target(0.6, False),
            ),
            ("exchange, share of a step", label, exchange_share(result), Target(0.05, False)),
        ]
    return lines


def cost_model(result: dict[str, Any]) -> CostModel:
    """Return the cost model fitted to what was measured of a model."""
    serial = {int(n): statistics.median(seconds) for n, seconds in result["series"].items()}
    serial[result["atoms"]] = median_step(result, "alone")
    vector = {
        key: statistics.median(sample["vector"][key] for sample in result["samples"]["pair"])
        for key in VECTOR
    }
    busy = median_step(result, "pair") - vector["exchange"] - vector["sums"]
    return fit(
        serial,
        (vector["own"], vector["most"], busy),
        result["row_bytes"],
        result["layers"],
        result["cutoff"],
        DENSITY,
    )


def model_text(model: CostModel, network: Network) -> str:
    """Return the fitted numbers and the stated ones in a sentence."""
    return (
        f"{1e3 * model.fixed:.2f} ms a step, {1e6 * model.own:.1f} µs for an own and "
        f"{1e6 * model.remote:.1f} µs for a remote atom; {model.row_bytes:.0f} bytes a row; "
        f"{1e6 * network.latency:g} µs for a message and {network.bandwidth / 1e9:g} GB/s for each "
        "rank are assumed"
    )


def model_lines(model: CostModel, network: Network) -> list[list[str]]:
    """Return the table of the cost model as text."""
    return [
        [
            f"{line['atoms']:.0e}".replace("e+0", "e"),
            f"{line['ranks']:,.0f}",
            f"{line['ms']:.3g}",
            f"{100 * line['efficiency']:.0f} %",
            f"{line['ghosts']:.2f}",
            f"{line['wide ghosts']:.2f}",
            f"{line['wide ms']:.3g}",
        ]
        for line in table(model, network)
    ]


MODEL_HEADER = ["atoms", "ranks", "ms a step", "efficiency", "ghosts over own"]
MODEL_HEADER += ["wide ghosts over own", "ms a step with wide ghosts"]


def draw(models: dict[str, CostModel], network: Network, images: Path) -> list[Path]:
    """Draw strong and weak scaling and the ghosts; return the files."""
    written = []
    ranks = [2**k for k in range(15)]
    for name, model in models.items():
        figure, (strong, weak, ghosts) = plt.subplots(
            1, 3, figsize=(11.0, 3.4), layout="constrained"
        )
        for atoms in (10**k for k in range(4, 9)):
            usable = [p for p in ranks if atoms >= 10 * p]
            one = model.step(atoms, 1, network)
            speed = [one / model.step(atoms, p, network) for p in usable]
            strong.plot(usable, speed, label=f"10$^{len(str(atoms)) - 1}$ atoms")
        strong.plot(ranks, ranks, color="gray", lw=0.6, ls=":")
        strong.set(xscale="log", yscale="log", xlabel="ranks", ylabel="speed-up", title="strong")
        for own in (100, 1000, 10_000, 100_000):
            time = [model.step(own * p, p, network) for p in ranks]
            weak.plot(ranks, [100 * time[0] / t for t in time], label=f"{own:,} atoms a rank")
        weak.set(xscale="log", xlabel="ranks", ylabel="efficiency, %", ylim=(0, 105), title="weak")
        own = [10 ** (k / 4) for k in range(8, 25)]
        for wide, label in ((False, "this fix"), (True, "ghosts as wide as the network sees")):
            ratio = [model.ghost_ratio(4096 * n, 4096, wide) for n in own]
            ghosts.plot(own, ratio, label=label)
        ghosts.set(xscale="log", yscale="log", xlabel="own atoms of a rank", title="ghosts")
        ghosts.set_ylabel("remote over own atoms")
        for axis in (strong, weak, ghosts):
            axis.legend(fontsize=7)
        written.append(images / f"scaling_{name}.png")
        figure.savefig(written[-1], dpi=130)
        plt.close(figure)
    return written


def _target_lines(results: dict[str, Any]) -> list[list[str]]:
    return [
        [what, label, f"{value:.3g}", str(target), "reached" if target.met_by(value) else "missed"]
        for what, label, value, target in targets(results)
    ]


TARGET_HEADER = ["what", "measured with", "measured", "target", ""]


def print_results(results: dict[str, Any], network: Network, console: Console) -> None:
    """Print the targets and the cost model."""
    grid = Table(*TARGET_HEADER)
    for line in _target_lines(results):
        grid.add_row(*line)
    console.print(grid)
    for name, result in results.items():
        model = cost_model(result)
        grid = Table(*MODEL_HEADER, title=f"{MODELS[name]}: {model_text(model, network)}")
        for line in model_lines(model, network):
            grid.add_row(*line)
        console.print(grid)


@app.command()
def run(
    models: Annotated[str, typer.Option(help=f"Some of {', '.join(MODELS)}.")] = "small,wide",
    output: Annotated[Path, typer.Option(help="Results; models not run keep theirs.")] = RESULTS,
    rounds: Annotated[int, typer.Option(help="Repetitions, in turns.", min=1)] = Sizes.rounds,
    latency: Annotated[float, typer.Option(help="Of the network, microseconds.")] = 2.0,
    bandwidth: Annotated[float, typer.Option(help="Of the network, GB/s for a rank.")] = 3.0,
) -> None:
    """Measure every target of the table, fit the cost model, and write the numbers as JSON."""
    chosen = models.replace(",", " ").split()
    if unknown := [name for name in chosen if name not in MODELS]:
        raise typer.BadParameter(f"no model {unknown[0]}: write some of {', '.join(MODELS)}")
    content = json.loads(output.read_text()) if output.is_file() else {"models": {}}
    for name in chosen:
        content["models"][name] = measure(name, Sizes(rounds=rounds))
    content["machine"], content["versions"] = describe_machine(), describe_versions()
    content["network"] = asdict(Network(1e-6 * latency, 1e9 * bandwidth))
    output.write_text(json.dumps(content, indent=1) + "\n")
    console = Console(width=None if sys.stdout.isatty() else 150)
    print_results(content["models"], Network(**content["network"]), console)
    typer.echo(f"{output}: written; 'python -m benchmarks.mpi report' brings the page up to date")


@app.command()
def report(
    results: Annotated[Path, typer.Option(help="What `run` wrote.", exists=True)] = RESULTS,
) -> None:
    """Write the tables and plots of docs/parallel.md anew from the results."""
    for path in write_page(json.loads(results.read_text())):
        typer.echo(path)


def write_page(content: dict[str, Any], page: Path = PAGE) -> list[Path]:
    """Bring the page and its plots up to date; return the files written."""
    network, machine = Network(**content["network"]), content["machine"]
    fitted = {name: cost_model(result) for name, result in content["models"].items()}
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    sections = {
        "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}; {versions}.",
        "targets": markdown(TARGET_HEADER, _target_lines(content["models"])),
        "model": "\n\n".join(
            f"**{MODELS[name]}**: {model_text(model, network)}.\n\n"
            + markdown(MODEL_HEADER, model_lines(model, network))
            for name, model in fitted.items()
        ),
    }
    images = page.parent / "images"
    images.mkdir(exist_ok=True)
    page.write_text(fill_in(page.read_text(), sections))
    return [page, *draw(fitted, network, images)]


if __name__ == "__main__":
    app()
