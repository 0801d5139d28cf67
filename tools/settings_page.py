"""`make settings-page`: writes docs/settings.md from the settings' own models. Names, defaults and words live there."""

import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from worker.settings import WorkerSettings

from core.settings import ServiceSettings
from serverless.settings import HandlerSettings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

_BEGIN = """\
# Settings

Read from the environment once, at the start. A wrong value ends the start and names the variable; an empty one counts
as not set. Secrets and keys may lie in files: `EMBEDDING_HMAC_SECRET_FILE` names the one that holds the secret, and so
with `EMBEDDING_HMAC_SECRET_PREVIOUS`, `EMBEDDING_HMAC_CLIENTS` and `API_KEYS`. `make settings-page` writes this page.
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
        _section("The worker", "The client, in whichever process embeds.", _rows(WorkerSettings)),
    )
    return "\n".join((_BEGIN, *sections, _TARGETS))


def _section(title: str, words: str, rows: Iterator[str]) -> str:
    return "\n".join((f"## {title}\n\n{words}\n\n| variable | default | |\n|---|---|---|", *rows)) + "\n"


def _rows(model: type[BaseModel], without: type[BaseModel] | None = None) -> Iterator[str]:
    """A row for each field that is read from the environment; what has no words is not."""
    known = without.model_fields if without else {}
    for name, field in model.model_fields.items():
        if name not in known and field.description:
            words = " ".join(field.description.split()).replace("|", r"\|")
            yield f"| `{name.upper()}` | {_default(field)} | {words} |"


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined or value in (None, "", {}):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return f"`{value.value if isinstance(value, Enum) else value}`"


if __name__ == "__main__":
    main()
