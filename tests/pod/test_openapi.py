"""The pod's description of itself: valid, whole, and true of what the pod answers."""

import base64
import copy
import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, get_args

import pytest
import requests
import schemathesis
from hypothesis import settings
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from schemathesis.checks import CheckContext
from schemathesis.core.transport import Response

from core.operations import OPERATIONS, Proof
from core.service import Service, Status
from core.settings import ServiceSettings
from core.wire.answers import ANSWERS, StatusWord
from core.wire.openai import EMBEDDINGS, MODELS
from models.shapes import draw, single
from pod.app import create_app
from pod.errors import STATUS
from pod.openapi import document
from pod.openapi_examples import EXAMPLE_SECRET, EXAMPLE_TS
from shared_auth import Authenticator, UnsignablePayload, image_payload_id, text_payload_id
from shared_auth.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT, EMBED_TEXT_BATCH
from tools.testbed.image_server import ImageServer
from tools.testbed.pictures import encoded
from tools.testbed.process import API_KEY, SECRET
from tools.testbed.target import Body, PodTarget, signed_batch, signed_image, signed_text, signed_texts

SETTINGS = ServiceSettings.model_validate(
    {"embedding_hmac_secret": SECRET, "api_keys": f"tests:{API_KEY}", "api_docs": True}
)
OPEN_SETTINGS = ServiceSettings(allow_insecure_auth=True, max_batch_size=3, max_text_batch_size=5)
DOCUMENT = document(SETTINGS)
# Answered where no operation was found.
OF_ROUTES = {"NOT_FOUND", "METHOD_NOT_ALLOWED"}
SIGNED = [path for path, operation in OPERATIONS.items() if operation.proof is Proof.SIGNATURE]
WITH_KEY = {"Authorization": f"Bearer {API_KEY}"}

SCHEMA = schemathesis.openapi.from_dict(copy.deepcopy(DOCUMENT))
EXAMPLES = 60


# Of every answer; of those that are counted; of those that ask for patience.
HEADERS = {"X-Request-ID"}
STANDING = {"RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"}
PATIENCE = {"Retry-After"}


def never_loaded() -> Any:  # noqa: ANN401
    raise AssertionError("nothing loads here")


@pytest.mark.parametrize("of", [pytest.param(SETTINGS, id="signed"), pytest.param(OPEN_SETTINGS, id="open")])
def test_document_is_openapi(of: ServiceSettings) -> None:
    """A validator of OpenAPI 3.1 has nothing to say."""
    validate(document(of))


def test_every_route_is_described() -> None:
    """Who adds a route describes it; the page's own files are nobody's interface."""
    app = create_app(SETTINGS, Service(SETTINGS, never_loaded))
    routes = {rule.rule for rule in app.url_map.iter_rules() if not rule.rule.startswith("/docs/")}

    assert routes == DOCUMENT["paths"].keys()


def test_every_operation_has_its_answer() -> None:
    """A row of the table without one would be described as any object."""
    assert set() == {operation.request for operation in OPERATIONS.values()} - ANSWERS.keys()


def test_status_words_are_those_of_the_service() -> None:
    """`/health` may say no other."""
    assert {status.value for status in Status} == set(get_args(StatusWord))


def test_every_code_is_described_with_its_status() -> None:
    """All of them in the introduction's table, and all that a signed operation can answer at one of them."""
    described = {
        (code, int(status))
        for path in SIGNED
        for status, response in DOCUMENT["paths"][path]["post"]["responses"].items()
        if status != "200"
        for code in response["description"].split(", ")
    }
    expected = {(kind.code, status) for kind, status in STATUS.items()}

    assert {pair for pair in expected if pair[0] not in OF_ROUTES} == described
    assert all(f"| {code} | {status} |" in DOCUMENT["info"]["description"] for code, status in expected)


def test_errors_are_those_of_the_operation() -> None:
    """A text is not downloaded, a single item is no batch, and a batch's images fail in their places."""
    codes = {
        path: {code for response in spec["post"]["responses"].values() for code in response["description"].split(", ")}
        for path, spec in DOCUMENT["paths"].items()
        if path in SIGNED
    }

    assert {EMBED_IMAGE} == {path for path in codes if "DOWNLOAD_ERROR" in codes[path]}
    assert {EMBED_IMAGE_BATCH, EMBED_TEXT_BATCH} == {path for path in codes if "BATCH_TOO_LARGE" in codes[path]}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param("200", HEADERS | STANDING, id="success"),
        pytest.param("401", HEADERS, id="refused"),
        pytest.param("429", HEADERS | STANDING | PATIENCE, id="over the limit"),
        pytest.param("503", HEADERS | PATIENCE, id="busy"),
    ],
)
@pytest.mark.parametrize("path", OPERATIONS)
def test_headers_are_described(path: str, status: str, expected: set[str]) -> None:
    """Those that a program decides by."""
    assert expected == DOCUMENT["paths"][path]["post"]["responses"][status]["headers"].keys()


def test_what_takes_a_key_is_there_where_there_are_keys() -> None:
    """Its errors are those that OpenAI's clients know."""
    responses = DOCUMENT["paths"][EMBEDDINGS]["post"]["responses"]

    assert {EMBEDDINGS, MODELS} == DOCUMENT["paths"].keys() - document(OPEN_SETTINGS)["paths"].keys()
    assert "invalid_api_key" == responses["401"]["description"]
    assert "VALIDATION_ERROR" in responses["400"]["description"]
    assert [{"key": []}] == DOCUMENT["paths"][EMBEDDINGS]["post"]["security"]


def test_limits_and_signatures_follow_the_settings() -> None:
    """A batch may have what the service takes, and `auth` is asked for only where it is verified."""
    signed, unsigned = DOCUMENT["components"]["schemas"], document(OPEN_SETTINGS)["components"]["schemas"]

    assert 3 == unsigned["ImageBatchRequest"]["properties"]["items"]["maxItems"]
    assert 5 == unsigned["TextBatchRequest"]["properties"]["items"]["maxItems"]
    assert "auth" in signed["TextRequest"]["required"]
    assert "auth" not in unsigned["TextRequest"]["required"]


def payload_id(item: Any) -> str | None:  # noqa: ANN401 - whatever was generated
    """What of an item is signed, None where that cannot be said."""
    if not isinstance(item, dict):
        return None
    try:
        match item:
            case {"image_url": str(url)}:
                return image_payload_id(url)
            case {"image_b64": str(encoded)}:
                return hashlib.sha256(base64.b64decode(encoded, validate=True)).hexdigest()
            case {"text": str(text)}:
                return text_payload_id(text)
    except (ValueError, UnsignablePayload):
        pass
    return None


@dataclass(frozen=True, slots=True)
class Example:
    """One example of a request."""

    path: str
    body: Body


def examples() -> Iterator[Any]:
    for path in OPERATIONS:
        content = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        for name, example in content.get("examples", {}).items():
            yield pytest.param(Example(path, example["value"]), id=f"{path} {name}")


@pytest.mark.parametrize("example", list(examples()))
def test_examples_are_requests(example: Example) -> None:
    """They are as the description has them."""
    model = OPERATIONS[example.path].request

    assert [] == [*validator({"$ref": f"#/components/schemas/{model.__name__}"}).iter_errors(example.body)]


@pytest.mark.parametrize("example", [one for one in examples() if one.values[0].path in SIGNED])
def test_examples_are_signed(example: Example) -> None:
    """They verify at their time with their secret."""
    authenticator = Authenticator([EXAMPLE_SECRET], clock=lambda: EXAMPLE_TS)
    items = example.body.get("items", [example.body])
    signatures = {authenticator.verify(example.path, str(payload_id(item)), item["auth"]).signature for item in items}

    assert len(items) == len(signatures)


def test_every_operation_has_an_example() -> None:
    """A payload that the examples do not know would leave it without."""
    assert OPERATIONS.keys() == {parameter.values[0].path for parameter in examples()}
    assert [path for path in OPERATIONS if DOCUMENT["paths"][path]["post"].get("x-signed")] == SIGNED


def closed(schema: Any) -> Any:  # noqa: ANN401
    """`schema`, where an object has no members but those that are described."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(part) for name, part in schema.items()}
    return inner | {"additionalProperties": False} if "properties" in inner and inner.get("type") == "object" else inner


def validator(schema: Body) -> OAS31Validator:
    """A validator of `schema`, whose references are those of the document."""
    return OAS31Validator({**schema, "components": closed(DOCUMENT["components"])})


def wrong_in(path: str, method: str, response: requests.Response) -> list[str]:
    """What of an answer is not as it is described."""
    described = DOCUMENT["paths"][path][method]["responses"][str(response.status_code)]
    schema = described["content"]["application/json"]["schema"]
    return [error.message for error in validator(schema).iter_errors(response.json())]


def picture(images: ImageServer) -> str:
    return images.add("/described.png", encoded(draw(single("red", "circle"), 64), "PNG"))


def bodies(images: ImageServer) -> Iterator[tuple[str, Body]]:
    """One request of each kind of answer, errors included."""
    url = picture(images)
    yield EMBED_IMAGE, signed_image(url)
    yield EMBED_IMAGE, signed_image(url, encoding_format="base64", request_id="a", normalize=False)
    yield EMBED_IMAGE, signed_image(images.base_url + "/missing.png")
    yield EMBED_IMAGE, signed_image("file:///etc/passwd")
    yield EMBED_IMAGE_BATCH, signed_batch([url, images.base_url + "/missing.png"])
    yield EMBED_IMAGE_BATCH, signed_batch([f"{url}?{place}" for place in range(17)])
    yield EMBED_TEXT, signed_text("a red circle")
    yield EMBED_TEXT, signed_text("a red circle " * 100)
    yield EMBED_TEXT, signed_text("a red circle", secret="wrong")
    yield EMBED_TEXT, signed_text("a red circle", age_s=1000)
    yield EMBED_TEXT, signed_text("")
    yield EMBED_TEXT_BATCH, signed_texts(["a red circle", "a blue square"], encoding_format="base64")
    yield EMBEDDINGS, {"input": "a red circle", "encoding_format": "base64"}
    yield EMBEDDINGS, {"input": [{"text": "a"}, {"image_url": url}, {"image_url": "file:x"}], "partial": True}
    yield EMBEDDINGS, {"input": ["a", ""]}
    yield EMBEDDINGS, {"input": "a", "model": "another"}


def test_answers_are_as_described(pod_target: PodTarget, images: ImageServer) -> None:
    """No member that is not described, none missing, none of another type."""
    statuses = set()
    for path, body in bodies(images):
        response = requests.post(pod_target.base_url + path, json=body, headers=WITH_KEY, timeout=60)
        statuses.add(response.status_code)

        assert [] == wrong_in(path, "post", response)
    assert {200, 400, 401, 404, 422} == statuses


@pytest.mark.parametrize("headers", [{}, WITH_KEY], ids=["no key", "key"])
@pytest.mark.parametrize("path", ["/", "/health", "/livez", "/readyz", "/ping", MODELS])
def test_get_routes_are_as_described(pod_target: PodTarget, path: str, headers: dict[str, str]) -> None:
    """The same for what is not an operation."""
    assert [] == wrong_in(path, "get", requests.get(pod_target.base_url + path, headers=headers, timeout=30))


def no_internal_error(_context: CheckContext, response: Response, _case: schemathesis.Case[Any]) -> None:
    """Statuses over 500 say that the service is busy or late, which it may be; 500 is a fault."""
    assert 500 != response.status_code


CHECKS: list[Any] = [
    no_internal_error,
    *schemathesis.checks.CHECKS.get_by_names(
        [
            "status_code_conformance",
            "content_type_conformance",
            "response_schema_conformance",
            "response_headers_conformance",
        ]
    ),
]


@SCHEMA.exclude(path=["/openapi.json", "/docs"]).parametrize()
@settings(max_examples=EXAMPLES)
def test_whatever_is_sent_the_answer_is_described(case: schemathesis.Case[Any], pod_target: PodTarget) -> None:
    """Right and wrong requests alike; no signature and no key here is valid."""
    case.call_and_validate(base_url=pod_target.base_url, checks=CHECKS)


@SCHEMA.include(path_regex="^/v1/").parametrize()
@settings(max_examples=EXAMPLES)
def test_whatever_is_let_in_the_answer_is_described(
    case: schemathesis.Case[Any], pod_target: PodTarget, images: ImageServer
) -> None:
    """The same behind signatures and keys, where items are embedded."""
    body = at_home(case.body, picture(images))
    case.body = with_signatures(case.path, body) if case.path in SIGNED and isinstance(body, dict) else body
    case.call_and_validate(base_url=pod_target.base_url, headers=WITH_KEY, checks=CHECKS)


def at_home(value: Any, image_url: str, place: int = 0) -> Any:  # noqa: ANN401 - whatever was generated
    """`value`, where nothing is downloaded from elsewhere, but from `image_url`."""
    if isinstance(value, dict):
        return {name: at_home(member, image_url, place) for name, member in value.items()}
    if isinstance(value, list):
        return [at_home(member, image_url, position) for position, member in enumerate(value)]
    return f"{image_url}?{place}" if isinstance(value, str) and value.lower().startswith("http") else value


def with_signatures(path: str, body: Body) -> Body:
    """`body`, signed where it can be."""
    items = body["items"] if isinstance(body.get("items"), list) else [body]
    authenticator = Authenticator([SECRET])
    for item in items:
        if (identity := payload_id(item)) is not None:
            with suppress(UnsignablePayload):
                item["auth"] = authenticator.sign(path, identity).as_dict()
    return body
