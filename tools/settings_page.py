"""`make settings-page`: writes docs/settings.md from the settings' own models. Names, defaults and words live there."""

import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from enum import Enum
from pathlib import Path

from clip_embedding_client.settings import ClientSettings
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from core.settings import ServiceSettings
from serverless.settings import HandlerSettings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

_BEGIN = """\
# Settings

Read from the environment once, at the start. A wrong value ends the start and names the variable; an empty one, or one
of blanks, counts as not set. Secrets and keys may lie in files: `EMBEDDING_HMAC_SECRET_FILE` names the one that holds
the secret, and so with `EMBEDDING_HMAC_SECRET_PREVIOUS`, `EMBEDDING_HMAC_CLIENTS` and `API_KEYS`. `make settings-page`
writes this page.
"""

_TARGETS = """\
## What `make` reads

| variable | default | |
|---|---|---|
| `TARGET` | `pod` | of `make smoke`: or `serverless` |
| `SMOKE_IMAGE_URL` | | of `make smoke`: a public image, where the target is not on this machine |
| `SERVERLESS_PORT` | 8001 | of `make run-serverless` |

`make docker-build` has its own, in [deploy.md](deploy.md).
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), "utf-8")
    print("wrote docs/settings.md", file=sys.stderr)


def page() -> str:
    """The whole text."""
    sections = (
        _section("The service", "Pod and handler alike.", _rows(ServiceSettings)),
        _section("The handler", "The serverless worker alone.", _rows(HandlerSettings, without=ServiceSettings)),
        _section("The client", _client_words(), _client_rows()),
    )
    return "\n".join((_BEGIN, *sections, _TARGETS))


def _section(title: str, words: str, rows: Iterator[str]) -> str:
    return "\n".join((f"## {title}\n\n{words}\n\n| variable | default | |\n|---|---|---|", *rows)) + "\n"


def _rows(model: type[BaseModel], without: type[BaseModel] | None = None) -> Iterator[str]:
    """A row for each field that is read from the environment; what has no words is not."""
    known = without.model_fields if without else {}
    for name, field in model.model_fields.items():
        if name not in known and field.description:
            yield _row(name, field.default, field.description)


def client_secrets() -> list[str]:
    """The client's variables that may lie in files. They are those that its settings do not show."""
    return [each.name.upper() for each in fields(ClientSettings) if "words" in each.metadata and not each.repr]


def _client_words() -> str:
    files = " and ".join(f"`{name}_FILE`" for name in client_secrets())
    return (
        "In whichever process embeds; `ClientSettings` takes the same by keyword, in small letters.\n"
        f"{files} name files that hold these secrets."
    )


def _client_rows() -> Iterator[str]:
    for each in fields(ClientSettings):
        if "words" in each.metadata:
            yield _row(each.name, each.default, each.metadata["words"])


def _row(name: str, default: object, words: str) -> str:
    joined = " ".join(words.split()).replace("|", r"\|")
    return f"| `{name.upper()}` | {_default(default)} | {joined} |"


def _default(value: object) -> str:
    if value in (PydanticUndefined, MISSING, None, "", {}):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return f"`{value.value if isinstance(value, Enum) else value}`"


if __name__ == "__main__":
    main()
