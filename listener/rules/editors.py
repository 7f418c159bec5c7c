"""The words of `rules.yaml` as a JSON Schema, for editors: what one mapping may hold, with both languages' hints."""

import json
from typing import Any

from listener.rules.schema import Rules


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `rules.yaml`, for editors.

    It says what one mapping may hold; names that must exist elsewhere, SQL and templates are the reader's to judge.
    """
    schema = Rules.model_json_schema(by_alias=True)
    _tidy(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "rules.yaml of listener"}


def schema_text() -> str:
    """The JSON Schema as `listener schema` prints it and as it is shipped beside this package."""
    return json.dumps(json_schema(), ensure_ascii=False, indent=2) + "\n"


def _tidy(node: Any) -> None:
    """Leaves out what an editor would show as noise, and closes the mappings whose keys are names."""
    if isinstance(node, list):
        for item in node:
            _tidy(item)
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        if "default" in node and node["default"] in (None, "", [], {}):
            del node["default"]
        if "patternProperties" in node:
            node["additionalProperties"] = False
            node.pop("propertyNames", None)
        for item in node.values():
            _tidy(item)
