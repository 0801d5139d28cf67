"""Secrets as settings: several by name in one variable, or in a file that an orchestrator has mounted."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, SecretStr

from core.errors import StartError
from shared_auth import DEFAULT_CLIENT

# Each may be a file's name instead, in the variable with _FILE behind its name.
_MOUNTABLE = ("embedding_hmac_secret", "embedding_hmac_secret_previous", "embedding_hmac_clients", "api_keys")

# What RunPod puts a secret in the place of. Where it knows none of that name, everybody knows what is signed with.
_TEMPLATE = re.compile(r"\{\{.*\}\}")

_NAME = re.compile(r"[a-z0-9-]{1,32}")
# What cannot be guessed: 128 bits in hex.
_LEAST_SECRET_CHARACTERS = 32


def _named(value: object) -> object:
    """Read `name:secret,…`. What is said of a wrong one never shows it."""
    if not isinstance(value, str):
        return value
    named = dict[str, str]()
    for position, entry in enumerate(filter(None, map(str.strip, value.split(","))), start=1):
        name, separator, secret = entry.partition(":")
        if not separator or not _NAME.fullmatch(name):
            raise ValueError(f"entry {position} must be name:secret, the name of 1 to 32 of a-z, 0-9 and -")
        if len(secret) < _LEAST_SECRET_CHARACTERS:
            raise ValueError(f"the secret of {name} must have at least {_LEAST_SECRET_CHARACTERS} characters")
        if name in (*named, DEFAULT_CLIENT):
            raise ValueError(f"the name {name} is taken")
        named[name] = secret
    if len(set(named.values())) < len(named):
        raise ValueError("two clients have the same secret")
    return named


NamedSecrets = Annotated[Mapping[str, SecretStr], BeforeValidator(_named)]


def mounted(given: Mapping[str, str]) -> dict[str, str]:
    """The secrets that lie in files, as orchestrators mount them: NAME_FILE is where NAME is written."""
    found = dict[str, str]()
    for name in _MOUNTABLE:
        path = given.get(f"{name}_file")
        if path is None:
            continue
        if name in given:
            raise StartError(f"{name.upper()} and {name.upper()}_FILE are both set: set one of them")
        try:
            found[name] = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StartError(f"{name.upper()}_FILE: {path} cannot be read") from error
    return {name: value for name, value in found.items() if value}


def require_replaced(given: Mapping[str, str]) -> None:
    """Raises `StartError` for a secret that is still the name of one."""
    for name in _MOUNTABLE:
        template = _TEMPLATE.search(given.get(name, ""))
        if template:
            raise StartError(f"{name.upper()}: nothing has replaced {template[0]}: is there a secret of that name?")
