"""Promises that the repository makes as a whole."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("service", "models", "export")
CLIENT = ROOT / "clients" / "python"
KNOWN_FOLDERS = (*PACKAGES, "clients", "examples", "benchmarks", "tests", "docs", "deploy", ".ci")


def project(folder: Path = ROOT) -> dict[str, dict[str, object]]:
    with (folder / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def imports(package: str) -> Iterator[tuple[str, str]]:
    """List (file, imported module) of every import in a package, those inside functions too."""
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(), str(file))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: relative import"
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            yield from ((str(file.relative_to(ROOT)), module) for module in modules)


def reaches(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_come_from_this_tree(package: str) -> None:
    """The top-level packages that are imported are those beside this file, not others of the same name."""
    found = importlib.import_module(package).__file__
    assert found is not None
    assert Path(found).resolve() == ROOT / package / "__init__.py"


def test_the_service_shares_only_the_card() -> None:
    """The service imports nothing of models but the card, nothing of export, and neither torch nor onnx."""
    for file, module in imports("service"):
        if reaches(module, "models"):
            assert reaches(module, "models.card"), f"{file} imports {module}"
        for barred in ("export", "torch", "onnx", "examples", "benchmarks", "tests"):
            assert not reaches(module, barred), f"{file} imports {module}"


def test_models_and_export_do_not_look_back() -> None:
    """Models know nothing of export and service; export knows nothing of service."""
    for package, barred in (("models", ("export", "service")), ("export", ("service",))):
        for file, module in imports(package):
            assert not any(reaches(module, name) for name in (*barred, "examples", "tests")), f"{file}: {module}"


def test_the_client_stands_alone() -> None:
    """The client comes from this tree and imports nothing of it but itself, nor anything that it does not declare."""
    found = importlib.import_module("cellstream_client").__file__
    assert found is not None
    assert Path(found).resolve() == CLIENT / "cellstream_client" / "__init__.py"
    declared = project(CLIENT)["project"]["dependencies"]
    assert isinstance(declared, list)
    allowed = {re.split(r"[<>=]", line)[0] for line in declared} | {"cellstream_client"} | sys.stdlib_module_names
    for file, module in imports("clients/python/cellstream_client"):
        assert module.split(".")[0] in allowed, f"{file} imports {module}"


def test_the_card_needs_pydantic_alone() -> None:
    """What the service shares with export can be imported where torch is not installed."""
    for file in ("__init__.py", "card.py"):
        tree = ast.parse((ROOT / "models" / file).read_text())
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in {"pydantic", "typing", "hashlib", "collections"}, f"models/{file}: {name}"


def text_files() -> Iterator[tuple[Path, str]]:
    """List the files that a commit would contain, with their text."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:  # not a checkout
        files = [file for folder in KNOWN_FOLDERS for file in (ROOT / folder).rglob("*")]
        files += list(ROOT.glob("*"))
    for file in files:
        if file.is_file() and "__pycache__" not in file.parts:
            try:
                yield file, file.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def test_no_file_names_a_package_registry() -> None:
    """No file names a package registry, as the machine's configuration decides where packages come from."""
    # spelt in halves, or this file would be the one that is found
    hosts = ["pypi" + ".org", "pythonhosted" + ".org", "download.pytorch" + ".org", "conda.anaconda" + ".org"]
    hosts += ["registry.npmjs" + ".org", "index" + "-url", "find" + "-links"]
    found = [f"{file.relative_to(ROOT)}: {host}" for file, text in text_files() for host in hosts if host in text]
    assert not found


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_commands_in_the_documents_exist() -> None:
    """Every make target, module and file that the documents name exists."""
    documents = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"), ROOT / "deploy/README.md"]
    documents.append(CLIENT / "README.md")
    for document in documents:
        text = document.read_text()
        targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
        assert targets <= make_targets(), document
        for module in re.findall(r"python3? -m (service|export|examples[.\w]*)", text):
            place = ROOT / module.replace(".", "/")
            assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), f"{document}: {module}"
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (document.parent / link).exists(), f"{document}: {link}"


def test_every_target_is_in_the_help() -> None:
    """`make help` lists every target."""
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in make_targets():
        assert re.search(rf"^ +{target} ", done.stdout, re.MULTILINE), target


def test_constraints_pin_what_is_declared() -> None:
    """Every declared dependency has one exact version in constraints.txt, without a platform's suffix."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert not any("+" in version for version in pins.values())
    assert pins["torch"] == "2.13.0"
    declared = project()["project"]
    extras = declared["optional-dependencies"]
    assert isinstance(extras, dict)
    runtime = declared["dependencies"]
    assert isinstance(runtime, list)
    client = project(CLIENT)["project"]["dependencies"]
    assert isinstance(client, list)
    for requirement in [*runtime, *client, *(line for extra in extras.values() for line in extra)]:
        name = re.split(r"[<>=;\[ ]", requirement)[0]
        assert name == "cellstream" or name in pins, requirement


def test_the_runtime_needs_neither_torch_nor_onnx() -> None:
    """The service's own dependencies contain no training or export packages."""
    runtime = project()["project"]["dependencies"]
    assert isinstance(runtime, list)
    names = {re.split(r"[<>=;\[ ]", line)[0] for line in runtime}
    assert not names & {"torch", "onnx", "typer", "httpx"}


def test_the_compose_file_is_closed_by_default() -> None:
    """The service is published on loopback only, read-only, without capabilities, limited, and with a key file."""
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    service = composed["services"]["cellstream"]
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(volume["read_only"] for volume in service["volumes"])
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert set(service["secrets"]) <= set(composed["secrets"])
    assert service["healthcheck"]["test"][0] == "CMD"


def test_the_image_has_the_packages_that_are_tested() -> None:
    """Each package of requirements.txt has digests, and the version that constraints.txt has."""
    text = (ROOT / "requirements.txt").read_text()
    found = re.findall(r"^([a-z0-9-]+)==([^ ]+)[^\n]*((?: \\\n +--hash=sha256:[0-9a-f]{64})+)", text, re.MULTILINE)
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert {name: version for name, version, _ in found}.items() <= pinned.items()
    assert len(found) == len(re.findall(r"^[a-z]", text, re.MULTILINE)) > 20


def test_the_image_runs_the_service_as_a_user_with_keys() -> None:
    """The image runs as its own user, in exec form, with a health check, and reads the keys that compose mounts."""
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER \d+:\d+$", text, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["python", "-m", "service"\]$', text, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", text, re.MULTILINE)
    assert re.search(r"^EXPOSE 8000$", text, re.MULTILINE)
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    (secret,) = composed["services"]["cellstream"]["secrets"]
    assert f"CELLSTREAM_API_KEY_FILE=/run/secrets/{secret}" in text


def test_the_image_admits_only_what_the_service_needs() -> None:
    """The build context contains only the service, the card and the files that describe the package."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    admitted = {rule[1:] for rule in rules if rule.startswith("!")}
    described = {"pyproject.toml", "constraints.txt", "requirements.txt", "README.md", "LICENSE"}
    assert admitted == described | {"service", "models/__init__.py", "models/card.py"}
