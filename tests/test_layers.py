"""Who may import whom: every import of every module, also those for type checking only and those inside functions."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ALLOWED = {
    "errors": (),
    "logs": (),
    "metrics": (),
    "settings": (),
    "engine": ("errors",),
    "codec": ("engine", "errors"),
    "repository": ("codec", "engine", "errors", "settings"),
    "sessions": ("repository", "codec", "engine", "errors", "settings"),
    "api": ("sessions", "repository", "codec", "engine", "errors", "metrics", "settings"),
    "oip": ("api", "sessions", "repository", "codec", "engine", "errors", "settings"),
    "app": ("api", "oip", "sessions", "repository", "engine", "errors", "metrics", "settings"),
    "__main__": ("app", "api", "errors", "logs", "settings"),
}
"""Part of service/ → the other parts that it may import."""


def modules(package: str) -> dict[str, Path]:
    """Return the file of every module of a package, by dotted name."""
    files = sorted((ROOT / package).rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imported_names(file: Path) -> set[str]:
    """Return the dotted names of everything that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imports(file: Path, known: dict[str, Path]) -> set[str]:
    """Return which of the known modules a file imports."""
    names = imported_names(file)
    return {name if name in known else name.rpartition(".")[0] for name in names} & known.keys()


def part(module: str) -> str:
    """Return the part of service/ that a module belongs to."""
    return module.split(".")[1]


def test_the_service_has_twelve_parts() -> None:
    """What stands in service/ is listed here, and is no more than can be kept in mind."""
    found = {path.stem for path in (ROOT / "service").iterdir() if path.name not in ("__init__.py", "__pycache__")}
    assert found == ALLOWED.keys()
    assert len(found) <= 12


def test_imports_inside_the_service_run_one_way() -> None:
    """A module imports its own part, and the parts that are listed for it."""
    known = modules("service")
    for module, file in known.items():
        if module == "service":
            continue
        for imported in imports(file, known):
            assert imported != "service"
            assert part(imported) in (part(module), *ALLOWED[part(module)]), f"{module} imports {imported}"


@pytest.mark.parametrize("package", ["service", "models", "export", "clients/python/cellstream_client"])
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    """The modules of a package can be put in a sequence in which each imports earlier ones only."""
    known = modules(package)
    known |= {name.removeprefix("clients.python."): file for name, file in known.items()}
    graph = {module: imports(file, known) - {module} for module, file in known.items()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(known)


PROTOCOLS = {"fastapi", "starlette", "uvicorn", "websockets", "http", "httptools", "httpx", "requests", "urllib"}


def test_no_import_of_the_service_is_hidden() -> None:
    """A module that is imported by its name, in a text, would be seen by none of these tests."""
    for module, file in modules("service").items():
        text = file.read_text()
        assert "import_module" not in text, module
        assert "__import__" not in text, module


def test_only_the_fronts_know_a_protocol() -> None:
    """Neither FastAPI nor uvicorn is imported outside of api, oip, and the modules that put them together."""
    for module, file in modules("service").items():
        if module != "service" and part(module) not in ("api", "oip", "app", "__main__"):
            libraries = {name.split(".")[0] for name in imported_names(file)}
            assert not libraries & PROTOCOLS, module


def test_the_service_loads_neither_torch_nor_onnx() -> None:
    """In a fresh interpreter, importing the whole service loads none of what only training and export need."""
    code = "import sys, service.app; print(*({'torch', 'onnx', 'export', 'typer'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
