"""Every comparison with a peer, in one table and one plot.

    python -m tests.benchmarks.every --input_dir=brain_mri_253 --weights=FILE \
      --output_dir=bench

Builds records and trains a short run for those that need one. A benchmark that
cannot run is named with its last words. Leaves ratios.json, ratios.md and
ratios.png after each; its ratios are from one run of it, and stay there when
others are run again with `--only`.
"""

import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

from absl import app, flags

from tests.benchmarks import ratios
from trainer.data.build import parallel
from trainer.storage import paths

FLAGS = flags.FLAGS
# By the name of the module, what it is given.
_RECORDS, _RUN = "--data_dir={records}", "--job_dir={run}"
_WEIGHTS = "--weights={weights}"
_BENCHMARKS = {
    "build_records": [],
    "input_pipeline": [],
    "training_loop": [_RECORDS],
    "distribution": [_RECORDS, _WEIGHTS],
    "sweep": [_RECORDS, _WEIGHTS, "--num_trials=20"],
    "export": [_RUN, _RECORDS],
    "serving_latency": [],
    "serving_load": [],
    "bucket_checkpoints": [],
}


def run(module: str, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", module, *arguments],
        check=True,
        stderr=subprocess.PIPE,
        text=True,
    )


def describe_machine() -> dict:
    """What the ratios were measured on."""
    with open("/proc/cpuinfo") as file:
        models = [line for line in file if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": models[0].split(":")[1].strip() if models else "unknown",
        "cores": parallel.default_num_workers(),
        "memory_gib": round(memory / 2**30),
        "python": platform.python_version(),
    }


def markdown(machine: dict, rows: list[dict], skipped: dict) -> str:
    lines = [", ".join(f"{k}: {v}" for k, v in machine.items()), ""]
    lines += ["| what | beside | times as fast |", "|---|---|---|"]
    lines += [
        f"| {r['what']} | {r['peer']} | {r['ratio']:.2f} ({r['low']:.2f} to "
        f"{r['high']:.2f}) |"
        for r in rows
    ]
    lines += [f"\nNot run: {name}: {why}" for name, why in skipped.items()]
    return "\n".join(lines) + "\n"


def draw(rows: list[dict], path: pathlib.Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.7 + 0.19 * len(rows)))
    for place, row in enumerate(rows):
        faster, slower = row["low"] > 1, row["high"] < 1
        axes.plot(
            [row["low"], row["ratio"], row["high"]],
            [place] * 3,
            color="tab:green" if faster else "tab:red" if slower else "grey",
            marker="o",
            markersize=4,
            markevery=[1],
        )
    axes.set_yticks(
        range(len(rows)),
        [f"{row['what']} / {row['peer']}" for row in rows],
        fontsize=7.5,
    )
    axes.set_xscale("log")
    ticks = [0.5, 1, 2, 5, 10, 20, 50]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=7.5)
    axes.minorticks_off()
    axes.grid(axis="x", color="0.9")
    axes.axvline(1, color="0.4", linewidth=0.8)
    axes.set_ylim(len(rows) - 0.3, -0.7)
    axes.set_xlabel("times as fast (1: equally fast)", fontsize=7.5)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def measure(name: str, places: dict[str, str], found: dict) -> None:
    """Runs a benchmark, and puts its ratios in place of earlier ones."""
    with tempfile.NamedTemporaryFile("r") as file:
        os.environ[ratios.FILE] = file.name
        found["not_run"].pop(name, None)
        try:
            run(
                f"tests.benchmarks.{name}",
                *(a.format(**places) for a in _BENCHMARKS[name]),
            )
        except subprocess.CalledProcessError as error:
            found["not_run"][name] = error.stderr.strip().splitlines()[-1]
            print(f"Not run: {name}: {found['not_run'][name]}", flush=True)
        rows = [{"benchmark": name} | json.loads(line) for line in file]
    others = [row for row in found["ratios"] if row["benchmark"] != name]
    order = list(_BENCHMARKS).index
    found["ratios"] = sorted(rows + others, key=lambda r: order(r["benchmark"]))


def main(argv):
    del argv
    output = pathlib.Path(FLAGS.output_dir)
    places = {name: str(output / name) for name in ("records", "run")}
    places["weights"] = FLAGS.weights
    os.makedirs(output, exist_ok=True)
    if not (output / "run" / paths.SUCCESS_FILE).exists():
        run(
            "trainer.data.build_records",
            f"--input_dir={FLAGS.input_dir}",
            f"--output_dir={places['records']}",
        )
        run(
            "trainer.task",
            *(a.format(**places) for a in (_RECORDS, _RUN, _WEIGHTS)),
            "--fine_tune_epochs=1",
            "--export_formats=saved_model,onnx,litert",
        )
    kept = output / "ratios.json"
    machine = describe_machine()
    found = json.loads(kept.read_text()) if kept.exists() else {}
    if found.get("machine") != machine:
        found = {"machine": machine, "ratios": [], "not_run": {}}
    for name in FLAGS.only or _BENCHMARKS:
        measure(name, places, found)
        kept.write_text(json.dumps(found, indent=2) + "\n")
        table = markdown(machine, found["ratios"], found["not_run"])
        (output / "ratios.md").write_text(table)
        draw(found["ratios"], output / "ratios.png")
    print(table, end="")


if __name__ == "__main__":
    flags.DEFINE_string("input_dir", None, "Class folders.", required=True)
    flags.DEFINE_string("weights", None, "Of the backbone.", required=True)
    flags.DEFINE_string("output_dir", None, "What it leaves.", required=True)
    flags.DEFINE_multi_enum("only", [], [*_BENCHMARKS], "None given: all.")
    app.run(main)
