"""`/openapi.json`: the description of this HTTP interface, made from the tables that the service itself runs by.

Operations are the rows of `core.api.OPERATIONS`, bodies their models, errors the tree with `pod.errors.STATUS`: a row
that is added there is described here by itself.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from itertools import groupby
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from core.batching.items import Modality
from core.errors import (
    AuthFailed,
    BatchTooLarge,
    ImageError,
    InternalError,
    InvalidImage,
    MethodNotAllowed,
    NotFound,
    NotReady,
    Overloaded,
    RateLimited,
    ServiceError,
)
from core.operations import OPERATIONS, Operation, Proof, max_batch_sizes
from core.service import VERSION
from core.settings import ServiceSettings
from core.wire.answers import ANSWERS, ERRORS, Answer, HealthAnswer, IndexAnswer, ModelsAnswer, StatusAnswer
from core.wire.openai import MODELS, openai_error_body
from core.wire.responses import Body
from pod.errors import STATUS, status_of
from pod.openapi_examples import EXAMPLE_SECRET, EXAMPLE_TS, PAYLOADS, examples, item_of

NAME = "clip-embedding-service"

_JSON = "application/json"
_SCHEMAS = "#/components/schemas/"

_AUTH = {
    "type": "object",
    "description": (
        "`sig` is hex(HMAC-SHA256(secret, `POST|PATH|PAYLOAD_ID|ts`)). PATH is the operation's path. PAYLOAD_ID is the"
        " hex SHA-256 of a text's UTF-8 bytes or of an image's bytes, where they are in the request; of an `image_url`"
        " it is the string itself, exactly as it stands there."
    ),
    "properties": {
        "ts": {"type": "integer", "minimum": 10**9, "maximum": 10**10 - 1, "description": "Now, in Unix seconds."},
        "sig": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    },
    "required": ["ts", "sig"],
}

_REQUEST_ID = {"description": "The request's id, percent-encoded.", "schema": {"type": "string"}}
_STANDING = {
    "RateLimit-Limit": {"description": "Where there are limits: the tightest.", "schema": {"type": "integer"}},
    "RateLimit-Remaining": {"description": "What is left of it.", "schema": {"type": "integer"}},
    "RateLimit-Reset": {"description": "Seconds until all of it is there again.", "schema": {"type": "integer"}},
}
_RETRY_AFTER = {"description": "Seconds to wait.", "schema": {"type": "integer"}}
_TIMEOUT = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "description": "How many milliseconds the caller waits; what nobody waits for any more is not begun.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
}

_BEARER = [{"key": list[str]()}]
_KEY_SCHEME = {"type": "http", "scheme": "bearer", "description": "One of API_KEYS."}

# path -> its words, and its model or media type for each status.
_GET: Mapping[str, tuple[str, Mapping[int, type[Answer] | str | None]]] = {
    "/": ("Name, version and links", {200: IndexAnswer}),
    "/health": ("How the service is, and what it runs", {200: HealthAnswer, 503: HealthAnswer}),
    "/livez": ("Whether it can recover by itself", {200: StatusAnswer, 503: StatusAnswer}),
    "/readyz": ("Whether it takes requests", {200: StatusAnswer, 503: StatusAnswer}),
    "/ping": ("For load balancers: 204 while loading", {200: StatusAnswer, 204: None, 503: StatusAnswer}),
    "/metrics": ("Prometheus' text format", {200: "text/plain"}),
    "/openapi.json": ("This description", {200: _JSON}),
    "/docs": ("A page that shows it and signs requests", {200: "text/html"}),
}


class _Schemas(GenerateJsonSchema):
    def field_title_should_be_set(self, _schema: Any) -> bool:  # noqa: ANN401 - a type of pydantic's own
        """A title would only repeat the member's name."""
        return False


def document(settings: ServiceSettings) -> Body:
    """The OpenAPI 3.1 document of a pod with these settings, as JSON values.

    What takes a key is there where there are keys: without any it is answered NOT_FOUND.
    """
    operations = {
        path: operation
        for path, operation in OPERATIONS.items()
        if operation.proof is Proof.SIGNATURE or settings.api_keys
    }
    embed = {path: {"post": _operation(path, operation)} for path, operation in operations.items()}
    get = {path: {"get": _get(path, words, answers)} for path, (words, answers) in _GET.items()}
    components: Body = {"schemas": _schemas(operations, settings)}
    if settings.api_keys:
        embed[MODELS] = {"get": _models()}
        components["securitySchemes"] = {"key": _KEY_SCHEME}
    return {
        "openapi": "3.1.0",
        "info": {"title": NAME, "version": VERSION, "description": _introduction()},
        "tags": [{"name": "embed"}, {"name": "service"}],
        "paths": embed | get,
        "components": components,
    }


def _introduction() -> str:
    kinds = sorted(STATUS, key=lambda kind: kind.code)
    rows = [f"| {kind.code} | {STATUS[kind]} | {kind.default_message} |" for kind in kinds]
    return "\n".join(
        (
            "CLIP vectors of images and texts.",
            "",
            "Where the service has a secret, requests are signed: each item brings an `auth`. The examples are signed"
            f" with the secret `{EXAMPLE_SECRET}` at {EXAMPLE_TS}.",
            "",
            "Errors have one shape, `{error: {code, message, request_id, retryable}}`; what takes a key has OpenAI's.",
            "",
            # Folded where it is shown as a page: the operations come after it.
            "<details><summary>Codes</summary>",
            "",
            "| code | status | |",
            "|---|---|---|",
            *rows,
            "",
            "</details>",
        )
    )


def _operation(path: str, operation: Operation[Any]) -> Body:
    summary, _, more = (operation.request.__doc__ or "").partition(". ")
    described: Body = {
        "operationId": path.removeprefix("/v1/").replace("/", "_").replace("-", "_"),
        "summary": summary.rstrip("."),
        "description": more,
        "tags": ["embed"],
        "parameters": [_TIMEOUT],
        "requestBody": {
            "required": True,
            "content": {
                _JSON: {
                    "schema": {"$ref": _SCHEMAS + operation.request.__name__},
                    "examples": examples(path, operation),
                }
            },
        },
        "responses": {
            "200": _with_headers(_success(ANSWERS.get(operation.request)), _STANDING),
            **_failures(path, _errors(operation), operation.error_body),
        },
    }
    if operation.proof is Proof.KEY:
        return described | {"security": _BEARER}
    # For who signs in a program: OpenAPI has no word for a signature inside the body.
    return described | {"x-signed": True}


def _models() -> Body:
    kinds = [AuthFailed, NotFound, NotReady, Overloaded, InternalError]
    return {
        "operationId": "models",
        "summary": "The model",
        "tags": ["embed"],
        "security": _BEARER,
        "responses": {"200": _success(ModelsAnswer), **_failures(MODELS, kinds, openai_error_body)},
    }


def _success(answer: type[Answer] | None) -> Body:
    schema = {"$ref": _SCHEMAS + answer.__name__} if answer else {"type": "object"}
    return _response(200, {_JSON: {"schema": schema}})


def _errors(operation: Operation[Any]) -> list[type[ServiceError]]:
    """What the whole request can be answered."""
    if operation.proof is Proof.KEY:
        return [kind for kind in STATUS if kind is not MethodNotAllowed]
    item = item_of(operation.request)
    is_batch = item is not operation.request
    left_out: list[type[ServiceError]] = [NotFound, MethodNotAllowed]
    if not is_batch:
        left_out.append(BatchTooLarge)
    # In a batch the errors of images stand in their places; but nobody can have signed what is not base64.
    unsigned = {InvalidImage} if is_batch and "image_b64" in item.model_fields else set()
    if is_batch or operation.modality is not Modality.IMAGE:
        left_out.append(ImageError)
    return [kind for kind in STATUS if kind in unsigned or not issubclass(kind, tuple(left_out))]


def _failures(
    path: str, kinds: Iterable[type[ServiceError]], write: Callable[[ServiceError, str], Body]
) -> dict[str, Body]:
    errors = sorted((kind() for kind in kinds), key=lambda error: status_of(error, path))
    by_status = groupby(errors, key=lambda error: status_of(error, path))
    return {str(status): _failure(status, list(group), write) for status, group in by_status}


def _failure(status: int, errors: list[ServiceError], write: Callable[[ServiceError, str], Body]) -> Body:
    # As they are written: OpenAI's clients know some by another name.
    codes = sorted({write(error, "")["error"]["code"] for error in errors})
    these = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
    schema = {"allOf": [{"$ref": _SCHEMAS + ERRORS[write].__name__}, these]}
    response = _response(status, {_JSON: {"schema": schema}}, words=", ".join(codes))
    if any(isinstance(error, RateLimited) for error in errors):
        response = _with_headers(response, _STANDING)
    if any(error.retry_after_s is not None for error in errors):
        response = _with_headers(response, {"Retry-After": _RETRY_AFTER})
    return response


def _with_headers(response: Body, headers: Body) -> Body:
    return response | {"headers": response["headers"] | headers}


def _get(path: str, words: str, answers: Mapping[int, type[Answer] | str | None]) -> Body:
    responses = {str(status): _response(status, _get_content(answer)) for status, answer in answers.items()}
    name = path.strip("/").partition(".")[0] or "index"
    return {"operationId": name, "summary": words, "tags": ["service"], "responses": responses}


def _get_content(answer: type[Answer] | str | None) -> Body:
    if answer is None:
        return {}
    if isinstance(answer, str):
        return {answer: {"schema": {"type": "object" if answer == _JSON else "string"}}}
    return {_JSON: {"schema": {"$ref": _SCHEMAS + answer.__name__}}}


def _response(status: int, content: Body, *, words: str | None = None) -> Body:
    response: Body = {"description": words or HTTPStatus(status).phrase, "headers": {"X-Request-ID": _REQUEST_ID}}
    return response | {"content": content} if content else response


def _schemas(operations: Mapping[str, Operation[Any]], settings: ServiceSettings) -> Body:
    requests = [operation.request for operation in operations.values()]
    answers = [ANSWERS[request] for request in requests if request in ANSWERS]
    models: list[type[BaseModel]] = [*requests, *answers, *ERRORS.values()]
    models += [HealthAnswer, IndexAnswer, ModelsAnswer, StatusAnswer]
    _, made = models_json_schema(
        [(model, "validation") for model in models], ref_template=_SCHEMAS + "{model}", schema_generator=_Schemas
    )
    schemas = _joined(made["$defs"])
    for operation in operations.values():
        _describe_limits(schemas, operation, settings)
        if operation.proof is Proof.SIGNATURE:
            item = schemas[item_of(operation.request).__name__]
            _describe_payload(item)
            _describe_auth(item, required=settings.verifies_signatures)
    return schemas | {"Auth": _AUTH}


def _joined(schemas: Body) -> Body:
    """A member whose schema is written by hand brings definitions of its own, with references to them."""
    own = [member.pop("$defs", {}) for schema in schemas.values() for member in schema.get("properties", {}).values()]
    for definitions in own:
        schemas = definitions | schemas
    joined: Body = json.loads(json.dumps(schemas).replace('"#/$defs/', f'"{_SCHEMAS}'))
    return joined


def _describe_limits(schemas: Body, operation: Operation[Any], settings: ServiceSettings) -> None:
    if item_of(operation.request) is not operation.request:
        items = schemas[operation.request.__name__]["properties"]["items"]
        items["maxItems"] = max_batch_sizes(settings)[operation.modality]


def _describe_payload(schema: Body) -> None:
    """Each way to name what is embedded is optional in the model, and one of them has to be there."""
    names = [name for name in PAYLOADS if name in schema["properties"]]
    if len(names) > 1:
        schema["oneOf"] = [{"required": [name]} for name in names]


def _describe_auth(schema: Body, *, required: bool) -> None:
    """The models leave `auth` open: what is malformed there is AUTH_FAILED and no VALIDATION_ERROR."""
    schema["properties"]["auth"] = {"$ref": _SCHEMAS + "Auth"}
    if required:
        schema["required"] = [*schema.get("required", []), "auth"]
