"""Which files a row of a table may name. A table may be a stranger's; the network and the keys are the run's. Opens
nothing.
"""

import re
from urllib.parse import SplitResult, urlsplit

from bulk.places import is_uri

_THIS_MACHINE = {"file", "local"}
_BUCKETS = {"s3", "s3a", "gs", "gcs"}
_AZURE = {"abfs", "abfss", "az"}
# What a library takes for an account of Azure's may be any server: a container alone, or Azure's own names.
_AZURE_NAME = re.compile(
    r"([^@]*@)?([$a-z0-9-]+|[a-z0-9-]+\.(blob|dfs)\.(core\.(windows\.net|usgovcloudapi\.net|chinacloudapi\.cn)"
    r"|fabric\.microsoft\.com))",
    re.IGNORECASE,
)
# Other options choose a server. A region is part of a server's name, so it has neither dots nor slashes.
_HARMLESS_QUERY = re.compile(r"(&?(region|credential_kind)=[A-Za-z0-9_-]+)*")
# fsspec's way to say that a filesystem lies in a file of another one, which could be anywhere.
_CHAIN = "::"
_SHOWN_CHARACTERS = 40


def why_not(path: str, input_uri: str) -> str | None:
    """Why a row may not name the file at `path`, in words without a key; None if it may.

    It may name files of this machine and of the documented object stores, and of the server that the input lies on.
    """
    if not is_uri(path):
        return None
    named = _split(path)
    if named is None:
        return "is no URI"
    own = _split(input_uri) if is_uri(input_uri) else None
    if named.scheme in _THIS_MACHINE or (own is not None and _CHAIN not in path and _is_server_of(named, own)):
        return None
    if named.scheme not in _BUCKETS | _AZURE:
        allowed = "files of this machine, s3://, gs://, az:// and abfs://, and where the input lies"
        return f"{named.scheme[:_SHOWN_CHARACTERS]}:// is refused: a row may name {allowed}"
    if named.scheme in _AZURE and not _AZURE_NAME.fullmatch(named.netloc):
        return f"{named.scheme}:// is of another server than Azure's"
    is_harmless = _HARMLESS_QUERY.fullmatch(named.query) is not None
    if is_harmless or (own is not None and (named.scheme, named.query) == (own.scheme, own.query)):
        return None
    return "a row's query may have region and credential_kind, or must be that of the input"


def _split(uri: str) -> SplitResult | None:
    try:
        return urlsplit(uri)
    except ValueError:
        # It would say the password.
        return None


def _is_server_of(named: SplitResult, own: SplitResult) -> bool:
    is_same = (named.scheme, named.netloc) == (own.scheme, own.netloc)
    return is_same and named.query in ("", own.query)
