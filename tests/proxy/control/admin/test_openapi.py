"""The OpenAPI document: every registered endpoint is in it, every reference leads somewhere, every schema is one."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel

from optimizer.feedback import _FIELDS as FEEDBACK_FIELDS
from proxy.control.access import Reach
from proxy.control.admin import key_request, models, models_live
from proxy.control.admin.openapi import describe
from proxy.control.admin.registry import ENDPOINTS

DOCUMENT = describe(ENDPOINTS, version="1.2.3")
NEEDED = {("/api/v1/arms/densities", "route")}


def _operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def test_every_registered_endpoint_is_described_and_nothing_else() -> None:
    """By method and path, with a summary and at least one success."""
    described = {(method, path) for method, path, _ in _operations()}

    assert described == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    assert len(described) == len(ENDPOINTS)
    for method, path, operation in _operations():
        assert operation["summary"], (method, path)
        assert any(status.startswith("2") for status in operation["responses"]), (method, path)


def test_the_document_has_the_shape_of_openapi() -> None:
    """What the specification of 3.1 requires of each part that is used."""
    assert re.fullmatch(r"3\.1\.\d+", DOCUMENT["openapi"])
    assert DOCUMENT["info"]["version"] == "1.2.3"
    ids = [operation["operationId"] for _, _, operation in _operations()]
    assert len(set(ids)) == len(ids)
    for method, path, operation in _operations():
        parameters = operation["parameters"]
        names = [(parameter["name"], parameter["in"]) for parameter in parameters]
        assert len(set(names)) == len(names)
        in_path = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))
        for parameter in parameters:
            assert parameter["in"] in ("path", "query", "header")
            asked = parameter["in"] == "path" or (path, parameter["name"]) in NEEDED
            assert parameter["required"] is asked
            assert "schema" in parameter
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d", status)
            assert response["description"]
        if "requestBody" in operation:
            assert method in ("POST", "PUT", "PATCH")
            assert operation["requestBody"]["content"]
    schemes = set(DOCUMENT["components"]["securitySchemes"])
    assert {name for wanted in DOCUMENT["security"] for name in wanted} == schemes


def test_every_reference_leads_to_a_valid_schema() -> None:
    """JSON Schema 2020-12, which is what OpenAPI 3.1 speaks; and none is left over."""
    schemas = DOCUMENT["components"]["schemas"]
    references = set(_references(DOCUMENT))

    assert {reference.removeprefix("#/components/schemas/") for reference in references} == set(schemas)
    for name, schema in schemas.items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema.get("description"), name
    for _, _, operation in _operations():
        for parameter in operation["parameters"]:
            jsonschema.Draft202012Validator.check_schema(parameter["schema"])


def test_only_what_is_open_needs_no_key() -> None:
    """401 stands at everything else."""
    for endpoint in ENDPOINTS:
        operation = DOCUMENT["paths"][endpoint.path][endpoint.method.lower()]
        is_open = endpoint.reach in (Reach.HEALTH, Reach.METRICS)
        assert ("401" in operation["responses"]) is not is_open
        assert (operation.get("security") == [{}]) is is_open


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (models_live.KeyRequest, key_request._FIELDS),
        (models_live.FeedbackItem, FEEDBACK_FIELDS),
    ],
)
def test_bodies_that_others_read_are_described_completely(
    model: type[BaseModel], fields: tuple[str, ...]
) -> None:
    """Keys and feedback have readers of their own."""
    assert set(model.model_fields) == set(fields)


def test_a_model_of_requests_refuses_what_it_does_not_know() -> None:
    """None of them ignores a misspelt name."""
    for endpoint in ENDPOINTS:
        for model in (endpoint.about.asks, endpoint.about.query):
            if model is not None and issubclass(model, models.Request):
                assert model.model_config["extra"] == "forbid"


async def test_it_is_served_at_both_places(node) -> None:
    """To operators, with the product's version."""
    status, document = await node.get("/openapi.json")
    other = await node.get("/api/v1/openapi.json")

    assert status == 200
    assert other == (200, document)
    assert document["paths"].keys() == DOCUMENT["paths"].keys()
    assert document["info"]["version"] == node.runtime.services.version
