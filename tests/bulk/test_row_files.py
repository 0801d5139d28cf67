"""Which files a row may name: those that the documents promise, whatever else the libraries below could open."""

import re

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulk.row_files import why_not

_AZURE = "container@account.dfs.core.windows.net"
# fsspec has names with an underscore, too, which are of no URI.
_IS_SCHEME = re.compile("[a-z0-9]+")
_MINIO = "endpoint_override=10.0.0.1%3A9000&scheme=http"


@pytest.mark.parametrize(
    ("path", "table"),
    [
        pytest.param("/data/a.png", "rows.csv", id="path"),
        pytest.param("data/a b::c.png", "s3://bucket/rows.csv", id="relative path"),
        pytest.param("", "rows.csv", id="empty path"),
        pytest.param("file:///data/a.png", "s3://bucket/rows.csv", id="file URI"),
        pytest.param("s3://bucket/a b::c?region=eu-west-1", "rows.csv", id="S3"),
        pytest.param("S3://key:secret@bucket.of.many/https://host/a", "rows.csv", id="S3 with a key of its own"),
        pytest.param("s3a://bucket/a", "rows.csv", id="S3 by another name"),
        pytest.param("gs://bucket/a", "rows.csv", id="Google"),
        pytest.param("gcs://bucket/a", "rows.csv", id="Google by another name"),
        pytest.param("az://container/a", "rows.csv", id="Azure, the environment's account"),
        pytest.param("abfs://$web/a", "rows.csv", id="Azure, a container of its own"),
        pytest.param(f"abfss://{_AZURE}/a?credential_kind=anonymous", "rows.csv", id="Azure, an account"),
        pytest.param("abfs://account.blob.core.windows.net/container/a", "rows.csv", id="Azure, blobs"),
        pytest.param(f"s3://images/a?{_MINIO}", f"s3://tables/rows.csv?{_MINIO}", id="the input's S3"),
        pytest.param("abfs://10.0.0.1:1/c/a?enable_tls=false", "abfs://10.0.0.1:1/c/t?enable_tls=false", id="Azurite"),
        pytest.param("hdfs://name:8020/a", "hdfs://name:8020/table?replication=2", id="the input's HDFS"),
        pytest.param("https://host/a.png", "https://host/rows.csv", id="the input's host"),
        pytest.param("memory://a.png", "memory://a.png", id="the input's filesystem"),
    ],
)
def test_what_a_row_may_name(path: str, table: str) -> None:
    """This machine, the object stores, and the server that the input lies on."""
    assert why_not(path, table) is None


@pytest.mark.parametrize(
    ("path", "table"),
    [
        pytest.param("http://169.254.169.254/latest/meta-data", "rows.csv", id="the machine's own credentials"),
        pytest.param("https://10.0.0.1/a", "https://host/rows.csv", id="another host than the input's"),
        pytest.param("https://host:8443/a", "https://host/rows.csv", id="another port"),
        pytest.param("https://x@host/a", "https://host/rows.csv", id="another user"),
        pytest.param("https://host/a::http://10.0.0.1/", "https://host/rows.csv", id="another one behind it"),
        pytest.param("zip://a::http://10.0.0.1/", "zip://a::s3://bucket/x.zip", id="inside of another one"),
        pytest.param("hdfs://10.0.0.1/a", "s3://bucket/rows.csv", id="HDFS"),
        pytest.param("s3://latest/meta-data?endpoint_override=169.254.169.254&scheme=http", "rows.csv", id="endpoint"),
        pytest.param("s3://b/a?endpoint%5Foverride=10.0.0.1&scheme=http", "rows.csv", id="endpoint, quoted"),
        pytest.param(f"s3://b/a?{_MINIO}&region=x", f"s3://b/t?{_MINIO}", id="more than the input's"),
        pytest.param(f"gs://b/a?{_MINIO}", f"s3://b/t?{_MINIO}", id="another store's"),
        pytest.param("s3://b/a?region=10.0.0.1%2F", "rows.csv", id="endpoint as a region"),
        pytest.param("s3://b/a?region=x.host", "rows.csv", id="host as a region"),
        pytest.param("abfs://account:key@169.254.169.254/c/a", "rows.csv", id="address as an account"),
        pytest.param("abfs://account:key@localhost:80/c/a", "rows.csv", id="port of an account"),
        pytest.param("abfs://[::1]/c/a", "rows.csv", id="address of IPv6 as an account"),
        pytest.param("abfs://host/.core.windows.net@10.0.0.1:1/a?enable_tls=false", "rows.csv", id="no TLS"),
        pytest.param("abfs://a.dfs.core.windows.net.evil.com/c/a", "rows.csv", id="like an account"),
        pytest.param("http://[::1/a", "rows.csv", id="no URI"),
        pytest.param("s3://key:secret\u2100@bucket/a", "rows.csv", id="characters of no host"),
        pytest.param("nobodys://host/a", "https://[/rows.csv", id="nobody's, and no input's either"),
    ],
)
def test_what_a_row_may_not_name(path: str, table: str) -> None:
    """A table may be a stranger's: where the run's network and keys lead is nothing that a row decides."""
    said = why_not(path, table)

    assert said is not None
    assert "secret" not in said
    assert 1 == len(said.splitlines())


@pytest.mark.parametrize("scheme", sorted(filter(_IS_SCHEME.fullmatch, fsspec.available_protocols())))
def test_filesystems_of_fsspec(scheme: str) -> None:
    """Those that are not named in the documents are refused, also the ones that come with its next version."""
    documented = {"file", "local", "s3", "s3a", "gs", "gcs", "az", "abfs"}

    assert (scheme in documented) == (why_not(f"{scheme}://x", "rows.csv") is None)


@given(st.text() | st.builds("{}://{}".format, st.sampled_from(["s3", "abfs", "http", "x", "é"]), st.text()), st.text())
def test_any_path_of_any_table(path: str, table: str) -> None:
    """It may be named or is refused, and nothing is raised."""
    assert isinstance(why_not(path, table), str | None)


def test_a_long_scheme_is_not_repeated() -> None:
    """Messages are for people."""
    said = why_not("a" * 100_000 + "://x", "rows.csv")

    assert said is not None
    assert len(said) < 300
