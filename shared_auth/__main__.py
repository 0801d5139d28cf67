"""Sign by hand: `python -m shared_auth sign --text "a red circle"`. The secret is EMBEDDING_HMAC_SECRET."""

import argparse
import json
import os
import sys
from pathlib import Path

from .authenticator import Authenticator
from .canonical import image_content_payload_id, image_payload_id, text_payload_id
from .contract import EMBED_IMAGE, EMBED_TEXT
from .errors import UnsignablePayload


def main(arguments: list[str] | None = None) -> int:
    """Print the `auth` object of a request as JSON. Returns the exit status."""
    options = _parser().parse_args(arguments)
    secret = os.environ.get("EMBEDDING_HMAC_SECRET")
    if not secret:
        print("EMBEDDING_HMAC_SECRET is not set", file=sys.stderr)
        return 2
    try:
        path, payload_id = _payload(options)
        signature = Authenticator([secret]).sign(options.path or path, payload_id)
    except (UnsignablePayload, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(signature.as_dict()))
    return 0


def _payload(options: argparse.Namespace) -> tuple[str, str]:
    """The path of the single operation, and what identifies the payload. Raises `OSError` for a file not to be read."""
    if options.image_url is not None:
        return EMBED_IMAGE, image_payload_id(options.image_url)
    if options.image_file is not None:
        return EMBED_IMAGE, image_content_payload_id(options.image_file.read_bytes())
    return EMBED_TEXT, text_payload_id(options.text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description="Sign requests by hand.")
    sign = parser.add_subparsers(dest="command", required=True).add_parser("sign", help="print an auth object")
    payload = sign.add_mutually_exclusive_group(required=True)
    payload.add_argument("--image-url", help="the image_url, exactly as it will stand in the request")
    payload.add_argument("--image-file", type=Path, help="the file whose bytes will stand in the request as image_b64")
    payload.add_argument("--text", help="the text, exactly as it will stand in the request")
    sign.add_argument("--path", help="the operation's path, if not that of a single image or text")
    return parser


if __name__ == "__main__":
    sys.exit(main())
