"""Artefacts that an older version of the code can load: without the fields of the card that it does not know."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx

from export.artefact import FILE_NAME
from models.card import CARD_KEY, SEAL_KEY, seal, seal_placeholder

_SCHEMA = "import json; from models.card import ModelCard; print(json.dumps(ModelCard.model_json_schema()))"


def keep_known_fields(artifacts: Path, *trees: Path) -> None:
    """Rewrite the artefacts in a folder, so that the code of each tree takes their cards."""
    schemas = [_schema(tree) for tree in trees]
    for file in artifacts.rglob(FILE_NAME):
        model = onnx.load(file)
        properties = {prop.key: prop.value for prop in model.metadata_props}
        card = properties[CARD_KEY]
        for schema in schemas:
            card = json.dumps(_known(json.loads(card), schema, schema.get("$defs", {})))
        if json.loads(card) != json.loads(properties[CARD_KEY]):
            onnx.helper.set_model_props(model, properties | {CARD_KEY: card, SEAL_KEY: seal_placeholder()})
            file.write_bytes(seal(model.SerializeToString(deterministic=True)))


def _schema(tree: Path) -> dict[str, Any]:
    """Return the JSON schema of a tree's model card."""
    found = subprocess.run([sys.executable, "-c", _SCHEMA], cwd=tree, capture_output=True, text=True, check=True)
    schema: dict[str, Any] = json.loads(found.stdout)
    return schema


def _known(value: Any, schema: dict[str, Any], parts: dict[str, Any]) -> Any:
    """Return a value without the fields that its schema forbids."""
    schema = parts[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if isinstance(value, list):
        return [_known(each, schema.get("items", {}), parts) for each in value]
    if not isinstance(value, dict) or schema.get("additionalProperties") is not False:
        return value
    fields = schema["properties"]
    return {name: _known(each, fields[name], parts) for name, each in value.items() if name in fields}
