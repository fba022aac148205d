"""Puts small bugs into the product, one at a time: do the tests notice?

    python -m tests.mutants --count=40 --rooms=trainer/evaluation,trainer/data

Each bug goes into a copy of the tree, where the fast tests that run its line
(`make mutants` finds out first) run in a fork, and if these pass the slow ones
of its file. What was found counts until file or tests change: a sample that is
stopped goes on, and one whose survivors have better tests is tried again.
"""

import ast
import collections
import contextlib
import copy
import functools
import hashlib
import importlib
import itertools
import json
import multiprocessing
import os
import pathlib
import random
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator

import coverage
from absl import app, flags

ROOT = pathlib.Path(__file__).parent.parent
_ROOMS = ["evaluation", "data", "model", "training", "export", "storage"]
_ROOMS = [f"trainer/{room}" for room in _ROOMS] + ["tuning", "serving"]
_NAMES = "Lt LtE Gt GtE Eq NotEq Is IsNot In NotIn Add Sub Mult Div And Or"
_KINDS = [getattr(ast, name) for name in f"{_NAMES} BitAnd BitOr".split()]
# What somebody chose: a number, a seed, how a figure looks.
_CHOICE = re.compile(
    r":\d+: [A-Z_\d]+ = [-\d.*<e ]+  \[|seed: int = \d+|"
    r"frameon|set_visible|\.grid\(|fontsize|linewidth"
)
# Of a ring of tests; three files of fast ones take 5 to 60.
_LIMIT_S = {"not slow": 120, "slow": 300}
_MOST_TESTS = 50
_SWAPS = {kind: _KINDS[i ^ 1] for i, kind in enumerate(_KINDS)}

_COUNT = flags.DEFINE_integer("count", 40, "Bugs to try.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the sample.")
_CHOSEN = flags.DEFINE_list("rooms", _ROOMS, "Folders or files that get them.")
_RESULTS = flags.DEFINE_string("results", ".venv/mutants.jsonl", "A file.")
_COVERAGE = flags.DEFINE_string(
    "coverage", ".venv/coverage/contexts", "Which fast test runs which line."
)


def _replacements(node: ast.AST) -> Iterator[ast.AST]:
    """What a node may be mistaken for."""
    other = copy.copy(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _SWAPS:
        other.ops = [_SWAPS[type(node.ops[0])](), *node.ops[1:]]
        yield other
    elif type(getattr(node, "op", None)) in _SWAPS:
        other.op = _SWAPS[type(node.op)]()
        yield other
    elif isinstance(node, ast.UnaryOp):
        number = getattr(node.operand, "value", None)
        # The first for the last; of two axes the last is also the second.
        yield ast.Constant(0) if number == 1 else node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        is_truth = isinstance(node.value, bool)
        yield ast.Constant(not node.value if is_truth else node.value + 1)
    elif isinstance(node, ast.Return) and ast.unparse(node) not in (
        "return",
        "return None",
        "return False",
    ):
        yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Raise | ast.Continue | ast.AugAssign) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield ast.Pass()


def _places(tree: ast.AST) -> Iterator[tuple[list | dict, object, ast.AST]]:
    """Each node with what holds it; none of annotations or messages."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list", "exc"):
            continue
        is_list = isinstance(value, list)
        holder = value if is_list else vars(tree)
        for key, child in enumerate(value) if is_list else [(field, value)]:
            if isinstance(child, ast.AST) and not re.match(
                r"(logging|print|warnings)\b", ast.unparse(child)
            ):
                yield holder, key, child
                yield from _places(child)


def make_mutants(path: pathlib.Path) -> Iterator[tuple[str, str]]:
    """What each bug of a file is, and the file with it."""
    text = path.read_text()
    tree, lines = ast.parse(text), text.splitlines()
    for holder, key, node in list(_places(tree)):
        for other in _replacements(node):
            old, new = (ast.unparse(n).split("\n")[0] for n in (node, other))
            what = f"{lines[node.lineno - 1].strip()}  [{old} -> {new}]"
            holder[key] = other
            mutated = ast.unparse(tree)
            holder[key] = node
            yield f"{path.relative_to(ROOT)}:{node.lineno}: {what}", mutated


@functools.cache
def _contexts(path: pathlib.Path) -> dict[int, list[str]]:
    """Tests that run each line: `file::test[case]|phase`, "" at import."""
    data = coverage.CoverageData(str(ROOT / _COVERAGE.value))
    data.read()
    return data.contexts_by_lineno(str(path))


def near_tests(
    path: pathlib.Path, line: int
) -> Iterator[tuple[str, list[str]]]:
    """Marks and tests: fast ones that run a line, then the slow of its file.

    Nearest are tests of the file, of its folder, and that name it. All tests of
    the nearest file come next; of what runs at import, or once for many tests,
    those of the nearest three.
    """
    *room, stem = path.relative_to(ROOT).with_suffix("").parts
    folder = ROOT.joinpath("tests", *(p for p in room if p != "trainer"))

    def nearness(file: pathlib.Path) -> tuple[bool, bool, bool, int]:
        count = len(re.findall(rf"\b{stem}\b", file.read_text()))
        names = f"test_{stem}", f"test_{room[-1]}_"
        return (
            file.parent == folder,
            *map(file.stem.startswith, names),
            count,
        )

    files = sorted(ROOT.joinpath("tests").rglob("test_*.py"))
    files = sorted(files, key=nearness, reverse=True)
    names = [str(file.relative_to(ROOT)) for file in files]
    contexts = _contexts(path)
    first = max((n for n in contexts if n <= line), default=0)
    runs = [context.partition("|") for context in contexts.get(first, [])]
    tests = {test.partition("[")[0] for test, _, phase in runs if phase}
    yield (
        "not slow",
        sorted(tests, key=lambda t: (names.index(t.partition("::")[0]), t))[
            :_MOST_TESTS
        ],
    )
    is_shared = not runs or any(phase != "run" for _, _, phase in runs)
    # Of processes that tests start, nothing is known.
    yield "not slow", names[: 3 if is_shared else 1]
    slow = [n for n in names[:3] if "mark.slow" in (ROOT / n).read_text()]
    yield "slow", slow[:1]


def _test(
    tree: pathlib.Path, mark: str, tests: list[str], log: pathlib.Path
) -> None:
    """Runs tests in a copy of the tree, in a fork."""
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(
            os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND), descriptor
        )
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path[:] = [
        str(tree),
        *(p for p in sys.path if p not in ("", str(ROOT))),
    ]
    for name in list(sys.modules):
        if name.split(".")[0] in ("tests", "trainer", "tuning", "serving"):
            del sys.modules[name]
    sys.modules["__main__"] = type(sys)("__main__")
    import pytest

    options = ["-qx", "-m", mark, "--hypothesis-profile=mutants"]
    code = pytest.main([*options, *tests])
    os._exit(0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else code)


def run_tests(tree: pathlib.Path, mark: str, tests: list[str]) -> str:
    """The test that failed first, or "" where all pass."""
    log = tree.parent / "log"
    log.write_text("")
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=_test, args=(tree, mark, tests, log))
    process.start()
    process.join(_LIMIT_S[mark])
    code = process.exitcode
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    if code == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)( - |$)", log.read_text(), re.M)
    return failed[1] if failed else f"exit code {code}"


def _sample() -> Iterator[tuple[str, pathlib.Path, str, str]]:
    """Bugs in an order that the seed draws, from each room in turn."""
    drawn = []
    for room in _CHOSEN.value:
        top = ROOT / room
        files = {top} if top.is_file() else {*top.rglob("*.py")}
        files = sorted(files - {ROOT / "trainer/data/phantom.py"})  # noise
        bugs = [(room, f, *mutant) for f in files for mutant in make_mutants(f)]
        random.Random(_SEED.value).shuffle(bugs)
        drawn.append([bug for bug in bugs if not _CHOICE.search(bug[2])])
    for row in itertools.zip_longest(*drawn):
        yield from filter(None, row)


def _try(bugs, tree: pathlib.Path) -> Iterator[tuple[str, str, str, str]]:
    """Room and bug, the mark of its tests, and that which failed or ""."""
    results = ROOT / _RESULTS.value
    rows = results.read_text().splitlines() if results.exists() else []
    known = {row["digest"]: row["test"] for row in map(json.loads, rows)}
    sound = set()
    for number, (room, path, bug, mutated) in enumerate(bugs, 1):
        line = int(bug.split(":")[1])
        for mark, tests in near_tests(path, line):
            files = sorted({tree / name.partition("::")[0] for name in tests})
            # One that has come since is not in the copy.
            if not files or not all(file.exists() for file in files):
                continue
            texts = [mutated, *tests, *(file.read_text() for file in files)]
            texts += [mark] * (mark == "slow")
            digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
            if digest not in known:
                copied = tree / path.relative_to(ROOT)
                whole = copied.read_text()
                copied.write_text(mutated)
                os.utime(copied, (number, number))  # compiled files go by it
                failed = run_tests(tree, mark, tests)
                copied.write_text(whole)
                # A test that fails without the bug, or that takes too long
                # without it, has noticed nothing.
                alone = (failed,) if "::" in failed else tuple(tests)
                if failed and alone not in sound:
                    if run_tests(tree, mark, alone):
                        print(f"{failed} fails without any bug.")
                        failed = ""
                    else:
                        sound.add(alone)
                known[digest] = failed
                row = {"digest": digest, "bug": bug, "test": failed}
                with open(results, "a") as file:
                    file.write(json.dumps(row) + "\n")
            if known[digest]:
                break
        yield room, bug, mark, known[digest]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    # What the forks share.
    for name in ("keras", "matplotlib.pyplot", "scipy.stats", "sklearn"):
        importlib.import_module(name)
    counts = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as scratch:
        tree = pathlib.Path(scratch) / "tree"
        skipped = shutil.ignore_patterns(".git", ".venv", "__pycache__")
        shutil.copytree(ROOT, tree, ignore=skipped)
        bugs = itertools.islice(_sample(), _COUNT.value)
        for room, bug, mark, test in _try(bugs, tree):
            counts[room][mark if test else ""] += 1
            print(f"{bug}\n    {test or 'SURVIVED'}", flush=True)
    print("room, noticed by fast tests, by slow ones, survived")
    for room, found in counts.items():
        print(f"{room}, {found['not slow']}, {found['slow']}, {found['']}")


if __name__ == "__main__":
    app.run(main)
