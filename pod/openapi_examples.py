"""The examples of `/openapi.json`: a request for each payload that an operation takes, signed as a client signs.

Secret and time are public and fixed, so that an implementation in another language can be held against them.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, get_args

from core.operations import Operation, Proof
from core.wire.openai import EmbeddingsRequest
from core.wire.requests import Request
from core.wire.responses import Body
from shared_auth import Authenticator, image_payload_id, text_payload_id

EXAMPLE_SECRET = "the-secret-of-the-documents-examples"  # noqa: S105 - public, and no service has it
EXAMPLE_TS = 1_703_001_234

# One pixel: short enough to be read.
_PIXEL_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c4944415478da63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)

# By the member that holds what is embedded; in a batch each value is an item.
PAYLOADS: Mapping[str, tuple[str, ...]] = {
    "image_url": ("https://example.com/a.jpg", "https://example.com/b.jpg"),
    "image_b64": (base64.b64encode(_PIXEL_PNG).decode(),),
    "text": ("a person walking in the rain", "a red bicycle"),
}
_PAYLOAD_ID: Mapping[str, Callable[[str], str]] = {
    "image_url": image_payload_id,
    "image_b64": lambda encoded: hashlib.sha256(base64.b64decode(encoded)).hexdigest(),
    "text": text_payload_id,
}


# Of what is not signed.
_PLAIN: Mapping[type[Request], Mapping[str, Body]] = {
    EmbeddingsRequest: {
        "texts": {"input": [*PAYLOADS["text"]]},
        "images": {"input": [*PAYLOADS["image_url"]], "modality": "image"},
        "both": {"input": [{"text": PAYLOADS["text"][0]}, {"image_url": PAYLOADS["image_url"][0]}], "partial": True},
    }
}


def examples(path: str, operation: Operation[Any]) -> dict[str, Body]:
    """OpenAPI's `examples` of a body: by name, each with a `value`."""
    request = operation.request
    if operation.proof is not Proof.SIGNATURE:
        return {name: {"value": body} for name, body in _PLAIN.get(request, {}).items()}
    item = item_of(request)
    payloads = {name: values for name, values in PAYLOADS.items() if name in item.model_fields}
    if item is request:
        return {name: {"value": _signed(path, name, values[0])} for name, values in payloads.items()}
    signed = [_signed(path, name, value) for name, values in payloads.items() for value in values]
    items = [{**one, "request_id": f"item-{place}"} for place, one in enumerate(signed)]
    return {"batch": {"value": {"items": items}}}


def item_of(request: type[Request]) -> type[Request]:
    """The model of what is embedded: that of a batch's items, else the request itself."""
    items = request.model_fields.get("items")
    if items is None:
        return request
    [model] = get_args(items.annotation)
    return model  # type: ignore[no-any-return]


def _signed(path: str, name: str, value: str) -> Body:
    authenticator = Authenticator([EXAMPLE_SECRET], clock=lambda: EXAMPLE_TS)
    return {name: value, "auth": authenticator.sign(path, _PAYLOAD_ID[name](value)).as_dict()}
