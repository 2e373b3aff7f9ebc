"""Read the stages that are named on the command line: [NAME=]SOURCE."""

import re
from collections.abc import Iterable
from pathlib import Path

from export.adopt.errors import UnsafeFileError
from export.adopt.foreign_file import read_foreign
from export.artefact import FILE_NAME
from export.chain.adopted_stage import FileSource
from export.chain.artefact_stage import ArtefactSource
from export.chain.errors import ChainError, NameCollisionError, StageError
from export.chain.function_stage import FunctionSource
from export.chain.stage import StageSource
from export.options import ExportOptions
from models.card import CARD_KEY, SEAL_KEY

_NAME = r"[A-Za-z_][A-Za-z0-9_.-]*"
_FUNCTION = r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*"


def read_stages(texts: Iterable[str], options: ExportOptions) -> list[StageSource]:
    """Return the stages in the sequence in which they are named.

    Raises:
        ExportError: One cannot be read, there are fewer than two, or two have one name.
    """
    found: dict[str, StageSource] = {}
    for text in texts:
        options.on_progress(f"reading {text}")
        source = _read(text, options)
        if not re.fullmatch(_NAME, source.name):
            raise StageError(
                source.name, f"this cannot be a stage's name: give it one of letters, digits and '_' by NAME={text}"
            )
        if source.name in found:
            raise NameCollisionError(
                "stage", source.name, ["two stages"], f"give one of them another name, such as {source.name}_2={text}"
            )
        found[source.name] = source
    if len(found) < 2:
        raise ChainError("a chain has at least two stages: artefacts, ONNX files or torch functions MODULE:FUNCTION")
    return list(found.values())


def _read(text: str, options: ExportOptions) -> StageSource:
    named = re.fullmatch(rf"({_NAME})=(.+)", text)
    name, source = (named[1], named[2]) if named and not Path(text).exists() else ("", text)
    path = Path(source)
    if path.is_dir():
        path = path / FILE_NAME
    if path.is_file():
        model = read_foreign(path)
        if {CARD_KEY, SEAL_KEY} & {prop.key for prop in model.metadata_props}:
            return ArtefactSource.read(name, path, model)
        stem = re.sub(r"[^A-Za-z0-9_]+", "_", path.stem).strip("_")
        return FileSource(name or (stem if re.fullmatch(_NAME, stem) else "stage"), path, model, options)
    if re.fullmatch(_FUNCTION, source):
        return FunctionSource.load(name, source, options)
    if Path(source).is_dir():
        raise UnsafeFileError(path, "there is no such file: expected the folder of an artefact, NAME/VERSION")
    raise StageError(name or source, f"{source} is neither a file, nor an artefact's folder, nor MODULE:FUNCTION")
