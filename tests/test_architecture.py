"""The four packages import in one direction, and looking at a package costs little."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "features": set(),
    "pipeline": {"features"},
    "models": {"features"},
    "workflows": {"features", "pipeline"},
}
HEAVY = ("torch", "spacy", "stanza", "onnxruntime", "pandas", "matplotlib", "transformers")


def sources(package):
    return sorted((ROOT / package).rglob("*.py"))


def imported(path):
    """Yield (line, module) of every import in a file, also of those inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.lineno, node.module


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_go_one_way(package):
    files = sources(package)
    assert files
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in files
        for line, module in imported(path)
        if (top := module.split(".")[0]) in ALLOWED and top not in {package, *ALLOWED[package]}
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ALLOWED)
def test_importing_a_package_loads_nothing_heavy(package):
    program = f"import sys, {package}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_the_packages_are_ours():
    for package in ALLOWED:
        module = __import__(package)
        assert Path(module.__file__).resolve().parent == ROOT / package


def test_files_are_small_and_say_what_they_are_for():
    for package in ALLOWED:
        for path in sources(package):
            text = path.read_text()
            assert len(text.splitlines()) <= 420, f"{path.name}: one reason to exist each"
            assert ast.get_docstring(ast.parse(text)), f"{path}: no docstring"
            assert path.stem not in {"utils", "helpers", "common"}


def test_exit_codes_and_messages_of_the_command_lines():
    for module in ("pipeline", "features", "models.train", "models.evaluate"):
        found = subprocess.run(
            [sys.executable, "-m", module, "--no-such-option"], capture_output=True, text=True
        )
        assert found.returncode == 2, f"{module}: {found.stderr[-300:]}"
        assert "Traceback" not in found.stderr
