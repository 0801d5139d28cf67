"""An S3 on loopback."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from moto.server import ThreadedMotoServer
from pyarrow import fs

S3_KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}


@contextmanager
def s3() -> Iterator[tuple[str, fs.FileSystem]]:
    """Run one with an empty bucket, `bucket`, until the block ends: what its URIs end with, and its filesystem."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    filesystem = fs.S3FileSystem(
        access_key=S3_KEYS["AWS_ACCESS_KEY_ID"],
        secret_key=S3_KEYS["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=f"{host}:{port}",
        scheme="http",
        region="us-east-1",
        allow_bucket_creation=True,
    )
    try:
        # All of a process share their objects
        requests.post(f"http://{host}:{port}/moto-api/reset", timeout=60).raise_for_status()
        filesystem.create_dir("bucket")
        yield f"endpoint_override={host}%3A{port}&scheme=http&region=us-east-1", filesystem
    finally:
        server.stop()
