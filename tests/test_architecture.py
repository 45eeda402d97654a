"""Rules of the house, read off the source: who may import whom, what is never done, what is always said."""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("features", "policies", "cascades", "oracles", "eval")
"""Each folder may import those before it, and itself."""

NETWORKS = {"torch", "torchvision", "timm"}
NETWORK_FOLDERS = {"cascades", "eval"}
CODE_THAT_DATA_COULD_RUN = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}

FILES = sorted(path for folder in ORDER for path in (ROOT / folder).rglob("*.py"))
TREES = {path: ast.parse(path.read_text("utf-8"), str(path)) for path in FILES}
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())

Function = ast.FunctionDef | ast.AsyncFunctionDef


def module_of(path: Path) -> str:
    """Its dotted name below ``offramp``."""
    parts = ("offramp", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def statements(tree: ast.AST, inside: bool = True) -> Iterator[ast.stmt]:
    """Statements at any depth; those that only a type checker reads are left out, and if wanted those in functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from (s for other in node.orelse for s in (other, *statements(other, inside)))
            continue
        if isinstance(node, ast.stmt):
            yield node
        if inside or not isinstance(node, Function):
            yield from statements(node, inside)


def imports(tree: ast.AST, inside: bool = True) -> Iterator[str]:
    """Dotted names of the modules that are imported, relative imports as ".name"."""
    for node in statements(tree, inside):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            yield from (f"{base}.{name.name}" for name in node.names if f"{base}.{name.name}" in MODULES)


def top(name: str) -> str:
    """The folder of a module of ours; of others the package."""
    parts = name.split(".")
    return parts[1] if parts[0] == "offramp" and len(parts) > 1 else parts[0]


def above(name: str) -> list[str]:
    """The packages that a module lies in."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(2, len(parts))]


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) > 35
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(ORDER)


# --- who imports whom


@each_file
def test_imports_go_one_way(path: Path) -> None:
    mine = ORDER.index(path.relative_to(ROOT).parts[0])
    for name in imports(TREES[path]):
        assert not name.startswith("."), f"{name}: a relative import"
        assert name.partition(".")[0] not in ORDER, f"{name}: installed, only offramp is there"
        assert top(name) not in {"tests", "benchmarks"}
        if top(name) in ORDER:
            assert ORDER.index(top(name)) <= mine, f"{name} is downstream"


def test_commands_are_doors_that_no_other_module_goes_through() -> None:
    """What two commands share lies in a room; a command is imported by nobody but the console."""
    doors = {name for name in MODULES if re.fullmatch(r"offramp\.eval\.\w+", name)} - {"offramp.eval.commands"}
    doors = {name for name in doors if MODULES[name].name != "__init__.py"}
    assert {"offramp.eval.frontier", "offramp.eval.run", "offramp.eval.certify"} <= doors
    for name, path in MODULES.items():
        named = {n.module for n in ast.walk(TREES[path]) if isinstance(n, ast.ImportFrom)}
        assert not doors & named, f"{name} imports {', '.join(sorted(doors & named))}, a command"


@each_file
def test_types_come_from_upstream_too(path: Path) -> None:
    """What only a type checker reads goes the same way, but for a protocol's own folder."""
    mine = ORDER.index(path.relative_to(ROOT).parts[0])
    names = [n.module for n in ast.walk(TREES[path]) if isinstance(n, ast.ImportFrom) and n.module]
    assert all(ORDER.index(top(name)) <= mine for name in names if top(name) in ORDER)


def test_no_module_imports_itself_in_a_circle() -> None:
    """At import; within functions it may."""
    ahead = {
        name: {other for other in imports(TREES[path], inside=False) if other in MODULES and other != name}
        for name, path in MODULES.items()
    }
    packages = {module_of(path) for path in FILES if path.name == "__init__.py"}
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " > ".join((*way[way.index(name) :], name))
        if name not in done:
            # ``from package.module import x`` runs the package's own file first
            around = {package for other in ahead[name] for package in above(other)} & packages - {*above(name), name}
            for other in sorted(ahead[name] | around):
                walk(other, (*way, name))
            done.add(name)

    for name in sorted(MODULES):
        walk(name, ())
    assert done == set(MODULES)


def test_networks_are_imported_only_where_one_is_touched() -> None:
    """In functions, or in modules that nothing else imports but their like; and in two folders at most."""
    at_import = {name for name, path in MODULES.items() if any(top(i) in NETWORKS for i in imports(TREES[path], False))}
    for name, path in MODULES.items():
        if any(top(other) in NETWORKS for other in imports(TREES[path])):
            assert top(name) in NETWORK_FOLDERS, name
        if name not in at_import:
            behind = at_import & set(imports(TREES[path], inside=False))
            assert not behind, f"{name} imports {', '.join(behind)}, and with it a network's framework"


def test_importing_the_packages_brings_in_nothing_heavy() -> None:
    """All modules but those that begin with a network's framework; start-up time is the user's."""
    light = [name for name, path in MODULES.items() if not any(top(i) in NETWORKS for i in imports(TREES[path], False))]
    heavy = NETWORKS | {"pandas", "pyarrow", "sklearn", "optuna", "matplotlib", "rich"}
    program = f"import {', '.join(light)}\nimport sys\nprint(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


# --- names


def bound(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names bound anywhere but in a class's own body, where they are asked for by ``self.`` or the class's name."""
    in_class = {child for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for child in node.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield (
                    (alias.asname or (alias.name.partition(".")[0] if isinstance(node, ast.Import) else alias.name)),
                    node.lineno,
                )
        elif isinstance(node, Function | ast.ClassDef) and node not in in_class:
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno


@each_file
def test_no_builtin_is_shadowed(path: Path) -> None:
    fields = {
        (node.target.id, node.target.lineno)
        for c in ast.walk(TREES[path])
        if isinstance(c, ast.ClassDef)
        for node in c.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    taken = set(dir(builtins)) - {"__doc__", "__name__", "_"}  # a doctest leaves "_" there
    assert [
        f"line {line}: {name}" for name, line in bound(TREES[path]) if name in taken and (name, line) not in fields
    ] == []


@each_file
def test_names_say_what_things_are(path: Path) -> None:
    names = [n.name for n in ast.walk(TREES[path]) if isinstance(n, Function | ast.ClassDef)]
    assert [name for name in names if re.match(r"_?get_|_?Base[A-Z]|.*Manager$", name)] == []
    assert not re.search(r"utils?|helpers?|misc|common", path.stem)


# --- what is never done


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


@each_file
def test_no_data_is_ever_run(path: Path) -> None:
    tree = TREES[path]
    assert not {top(name) for name in imports(tree)} & CODE_THAT_DATA_COULD_RUN
    for call in calls(tree):
        name = ast.unparse(call.func)
        assert name not in {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}, (
            f"line {call.lineno}: {name}"
        )
        assert not name.endswith(("read_pickle", "to_pickle"))
        for keyword in call.keywords:
            allowed = keyword.arg != "allow_pickle" or ast.unparse(keyword.value) == "False"
            assert allowed, f"line {call.lineno}: allow_pickle"
            assert keyword.arg != "shell", f"line {call.lineno}: a shell"


@each_file
def test_nothing_happens_at_import(path: Path) -> None:
    """Modules define; they neither print nor read nor set anything, nor seed a generator for everyone."""
    for node in TREES[path].body:
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"line {node.lineno}: {ast.unparse(node)[:60]}"
        guard = isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "__name__ == '__main__'"}
        defines = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign | ast.Expr
        assert guard or isinstance(node, defines), f"line {node.lineno}: {ast.unparse(node)[:60]}"
    for call in calls(TREES[path]):
        name = ast.unparse(call.func)
        random = re.fullmatch(r"(np|numpy)\.random\.(\w+)", name)
        assert not random or random[2] in {"default_rng", "Generator", "SeedSequence"}, f"line {call.lineno}: {name}"
        if random and random[2] == "default_rng":
            assert call.args or call.keywords, f"line {call.lineno}: no seed"


# --- what is always said


@each_file
def test_dataclasses_are_frozen(path: Path) -> None:
    for node in ast.walk(TREES[path]):
        for decorator in getattr(node, "decorator_list", ()):
            if "dataclass" in (text := ast.unparse(decorator)):
                assert "frozen=True" in text, f"line {node.lineno}: {node.name}"  # type: ignore[attr-defined]


def one_line(docstring: str | None) -> str:
    return " ".join((docstring or "").split("\n\n")[0].split())


@each_file
def test_a_module_says_in_one_sentence_what_it_turns_into_what(path: Path) -> None:
    docstring = ast.get_docstring(TREES[path])
    assert docstring, "no docstring"
    assert "\n\n" not in docstring, "more than a sentence"
    sentence = one_line(docstring)
    assert sentence[0].isupper() or sentence.startswith("``")
    assert sentence[-1] in ".?"
    assert not re.search(r"[.!?] [A-Z]", sentence)


def public(tree: ast.Module) -> Iterator[Function | ast.ClassDef]:
    """Public functions and classes of a module, and the public methods of these classes."""
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (m for m in node.body if isinstance(m, Function) and not m.name.startswith("_"))


@each_file
def test_everything_public_says_what_it_is(path: Path) -> None:
    for node in public(TREES[path]):
        said = one_line(ast.get_docstring(node))
        assert said, f"line {node.lineno}: {node.name} says nothing"
        assert said[-1] in ".:,", f"line {node.lineno}: {node.name}: {said}"


@each_file
def test_everything_has_types(path: Path) -> None:
    for node in ast.walk(TREES[path]):
        if isinstance(node, Function):
            assert node.returns is not None, f"line {node.lineno}: {node.name}"


# --- the repository


def kept() -> list[Path]:
    """Files that are in the repository, or will be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("no git here, so nothing says which files belong to the project")
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


MACHINE = re.compile(rb"(?<![\w.~/-])/(work|root|home|Users|mnt)(?=/|\b(?![./]))")
"""A path that one machine has and another has not."""


def test_no_file_knows_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0].decode()}"
        for path in kept()
        if path.suffix not in {".npz", ".parquet", ".png"} and path != Path(__file__).resolve()
        for match in MACHINE.finditer(path.read_bytes())
    ]
    assert found == []


def test_no_pickle_and_nothing_large_is_kept() -> None:
    for path in kept():
        assert path.suffix not in {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".pyc"}, path
        assert path.stat().st_size < 5 * 2**20, path


def test_machine_paths_are_recognised() -> None:
    for bad in (b"open('/work/x')", b"/root/.cache", b' "/home/me/data"', b"cd /mnt/disk"):
        assert MACHINE.search(bad)
    for good in (b"https://a.org/home/x", b"network/work", b"~/work", b"../work/x", b"x/root", b"framework"):
        assert not MACHINE.search(good)


# --- these rules find what they look for

WRONG = """
import eval.table
from oracles import ORACLES
if TYPE_CHECKING:
    import pandas
    from eval.x import y
else:
    import json
def work(id):
    import torch.nn as nn
    open = 1
    for max in (): pass
class Fine:
    exit: int
    def range(self): pass
"""


def test_the_rules_find_what_they_look_for() -> None:
    tree = ast.parse(WRONG)
    assert set(imports(tree)) == {"eval.table", "oracles", "json", "torch.nn"}
    assert set(imports(tree, inside=False)) == {"eval.table", "oracles", "json"}
    assert {name for name, _ in bound(tree)} & set(dir(builtins)) == {"eval", "id", "open", "max", "exit"}
    assert [node.name for node in public(tree)] == ["work", "Fine", "range"]
