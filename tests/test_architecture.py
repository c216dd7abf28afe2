"""The structure of the source: which package, sub-package and module may import which.

``docs/architecture.md`` explains the layers that are checked here.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "features": set(),
    "pipeline": {"features"},
    "models": {"features"},
    "workflows": {"features", "pipeline"},
    "scenestore": {"features", "pipeline", "models", "workflows"},
}
LAYERS = {  # inside a package, from the bottom up; the entries of one line are independent
    "features": [
        ["allocator", "errors", "inline", "tar_files"],
        ["decoding", "names", "npz_files", "plugins", "records", "yaml_text"],
        ["registry"],
        ["format"],
        ["reading"],
        ["vocab"],
        ["batches"],
        ["store"],
        ["convert", "drawing", "maintenance"],
        ["finding"],
        ["web"],
        ["commands"],
        ["__main__"],
    ],
    "pipeline": [
        ["attempts", "boundary"],
        ["language", "vision"],
        ["parse"],
        ["grounding"],
        ["detect"],
        ["demo", "evaluation", "negatives", "quality", "shards"],
        ["commands"],
        ["__main__"],
    ],
    "models": [
        ["compute", "configuration", "equations"],
        ["registry"],
        ["nn"],
        ["baselines", "papers"],
        ["evaluation"],
        ["training"],
        ["released"],
        ["reporting"],
        ["evaluate", "train"],
        ["compare", "export", "report", "search", "selfcheck", "verify"],
        ["web"],
        ["serve"],
        ["verify-result"],
    ],
    "workflows": [
        ["interrupts"],
        ["launcher", "processes", "settings", "targets", "tasks"],
        ["cluster"],
        ["build"],
        ["experiments"],
        ["demo"],
    ],
    "scenestore": [["completion", "docs", "tasks"], ["program"], ["__main__"]],
}
HEAVY = ("torch", "spacy", "stanza", "onnxruntime", "pandas", "matplotlib", "transformers")
FOLDERS = ("benchmarks", "configs", "docs", "examples", "tests", *PACKAGES)


def sources(package):
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in PACKAGES for path in sources(package)}


def part_of(module):
    """Return (package, entry of its layers) of a module; the entry of a face is "" ."""
    package, _, rest = module.partition(".")
    return package, rest.split(".")[0]


def imports(path):
    """Yield (node, module, inside a function) of every import of ours in a file."""
    tree = ast.parse(path.read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, functions)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found = [f"{node.module}.{name.name}" for name in node.names]
            names = [name if name in MODULES else str(node.module) for name in found]
        else:
            continue
        for name in dict.fromkeys(names):
            if name.split(".")[0] in PACKAGES:
                yield node, name, id(node) in inside


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_in_one_direction(package):
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} imports {module}"
        for path in sources(package)
        for node, module, _ in imports(path)
        if part_of(module)[0] not in {package, *PACKAGES[package]}
    ]
    assert wrong == []


@pytest.mark.parametrize("package", PACKAGES)
def test_layers_inside_a_package_import_downwards(package):
    rank = {entry: at for at, line in enumerate(LAYERS[package]) for entry in line}
    wrong = []
    for path in sources(package):
        _, own = part_of(module_name(path))
        if not own:
            continue  # the package's own face is above all layers
        for node, module, _ in imports(path):
            where, other = part_of(module)
            if where == package and other != own and (not other or rank[other] >= rank[own]):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {module}")
    assert wrong == []
    assert set(rank) == {part_of(name)[1] for name in MODULES if part_of(name)[0] == package} - {""}


def test_sub_packages_are_imported_through_their_face():
    """``from features.format import Shard``, not ``from features.format.shard import Shard``."""
    wrong = []
    for name, path in MODULES.items():
        for node, module, _ in imports(path):
            source = node.module if isinstance(node, ast.ImportFrom) else module
            deep = source.count(".") > 1
            main = path.name == "__main__.py"  # runs the program of its commands
            if deep and not main and part_of(module) != part_of(name):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {module}")
    assert wrong == []


def test_no_face_exports_a_name_that_is_also_one_of_its_modules():
    """Importing such a module later would replace the exported name."""
    wrong = []
    for name, path in MODULES.items():
        if path.name == "__init__.py" and "." in name:  # pipeline.detect, parse are functions
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module != name:
                    exported = [alias.asname or alias.name for alias in node.names]
                    wrong += [f"{name}.{one}" for one in exported if f"{name}.{one}" in MODULES]
    assert wrong == []


def test_no_modules_import_each_other():
    """No circle, whether the imports run at module level or inside functions."""
    graph = {name: set() for name in MODULES}
    for name, path in MODULES.items():
        for _, module, _ in imports(path):
            face = path.name == "__init__.py" or module == name.rpartition(".")[0]
            if module in MODULES and module != name and not face:
                graph[name].add(module)
    finished, active = set(), []

    def visit(name):
        if name in active:
            raise AssertionError(" -> ".join([*active[active.index(name) :], name]))
        if name not in finished:
            active.append(name)
            for other in sorted(graph[name]):
                visit(other)
            active.pop()
            finished.add(name)

    for name in sorted(graph):
        visit(name)


def test_imports_inside_functions_say_what_they_avoid_loading():
    wrong = []
    for path in MODULES.values():
        lines = path.read_text().splitlines()
        for node, module, inside in imports(path):
            nearby = lines[max(node.lineno - 3, 0) : node.end_lineno]
            if inside and not any("#" in line and "load" in line for line in nearby):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {module}")
    assert wrong == []


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_nothing_heavy(package):
    program = f"import sys, {package}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_features_and_models_need_no_parser_scheduler_or_detector_runtime():
    program = (
        "import sys\n"
        "for name in ('spacy', 'stanza', 'luigi', 'dask', 'distributed', 'onnxruntime'):\n"
        "    sys.modules[name] = None\n"
        "import features, models, models.train, models.evaluate, models.search, models.report\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_every_folder_can_be_taken_in_at_a_glance():
    """At most 15 files in a folder, generated and hidden files left out."""
    crowded = []
    for top in FOLDERS:
        for folder in [ROOT / top, *(ROOT / top).rglob("*")]:
            if folder.is_dir() and folder.name != "__pycache__":
                files = [f for f in folder.iterdir() if f.is_file() and f.suffix != ".pyc"]
                if len(files) > 15:
                    crowded.append(f"{folder.relative_to(ROOT)}: {len(files)} files")
    assert crowded == []


def test_every_module_says_what_it_is_for():
    for name, path in MODULES.items():
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path}: no docstring"
        assert not {"utils", "helpers", "common", "misc"} & set(name.split(".")), name


def test_exit_codes_and_messages_of_the_command_lines():
    for module in ("pipeline", "features", "models.train", "models.evaluate"):
        found = subprocess.run(
            [sys.executable, "-m", module, "--no-such-option"], capture_output=True, text=True
        )
        assert found.returncode == 2, f"{module}: {found.stderr[-300:]}"
        assert "Traceback" not in found.stderr
