"""Settings: what is missing or wrong is named, at creation."""

import logging
from dataclasses import fields

import pytest
from clip_embedding_client import BackendName, BackendOff, ClientSettings, ClipClient, ConfigurationError
from clip_embedding_client.old_names import warn_of_old_names

from tests.client.scripted import SECRET
from tests.logs import records_of

POD = {"CLIP_INFERENCE_BACKEND": "runpod_pod", "CLIP_POD_BASE_URL": "http://pod/", "EMBEDDING_HMAC_SECRET": SECRET}
SERVERLESS = {
    "CLIP_INFERENCE_BACKEND": "runpod_serverless",
    "RUNPOD_CLIP_ENDPOINT_ID": "abc123",
    "RUNPOD_API_KEY": "rp-key",
    "EMBEDDING_HMAC_SECRET": SECRET,
}


def test_defaults_of_the_contract() -> None:
    """What is not set has the contract's value; a base URL loses its last slash."""
    settings = ClientSettings.from_environ(POD)

    assert (60.0, 120.0, "https://api.runpod.ai/v2", "http://pod", None) == (
        settings.clip_pod_timeout_s,
        settings.runpod_timeout_s,
        settings.runpod_base_url,
        settings.clip_pod_base_url,
        settings.clip_fallback_backend,
    )


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        pytest.param({}, "CLIP_INFERENCE_BACKEND", id="no backend"),
        pytest.param({"CLIP_INFERENCE_BACKEND": "gpu"}, "CLIP_INFERENCE_BACKEND", id="unknown backend"),
        pytest.param(POD | {"CLIP_POD_BASE_URL": ""}, "CLIP_POD_BASE_URL", id="no pod URL"),
        pytest.param(POD | {"CLIP_POD_BASE_URL": "pod:8000"}, "CLIP_POD_BASE_URL", id="pod URL without scheme"),
        pytest.param(POD | {"CLIP_POD_BASE_URL": "http://u:p@pod"}, "CLIP_POD_BASE_URL", id="credentials in a URL"),
        pytest.param(POD | {"EMBEDDING_HMAC_SECRET": ""}, "EMBEDDING_HMAC_SECRET", id="no secret"),
        pytest.param(POD | {"CLIP_POD_TIMEOUT_S": "nan"}, "CLIP_POD_TIMEOUT_S", id="timeout that is no number"),
        pytest.param(POD | {"CLIP_BATCH_SIZE": "0"}, "CLIP_BATCH_SIZE", id="empty batches"),
        pytest.param(POD | {"CLIP_FALLBACK_BACKEND": "runpod_pod"}, "CLIP_FALLBACK_BACKEND", id="same fallback"),
        pytest.param(
            POD | {"CLIP_FALLBACK_BACKEND": "runpod_serverless"},
            "RUNPOD_CLIP_ENDPOINT_ID",
            id="fallback lacks endpoint",
        ),
        pytest.param(SERVERLESS | {"RUNPOD_API_KEY": ""}, "RUNPOD_API_KEY", id="no API key"),
        pytest.param(SERVERLESS | {"RUNPOD_CLIP_ENDPOINT_ID": "a/../b"}, "RUNPOD_CLIP_ENDPOINT_ID", id="path as id"),
        pytest.param(SERVERLESS | {"EMBEDDING_HMAC_SECRET": ""}, "EMBEDDING_HMAC_SECRET", id="serverless, no secret"),
        pytest.param(
            SERVERLESS | {"RUNPOD_BASE_URL": "http://api.runpod.ai/v2"}, "RUNPOD_BASE_URL", id="key unencrypted"
        ),
        pytest.param(
            SERVERLESS | {"RUNPOD_BASE_URL": "http://localhost.example.com/v2"},
            "RUNPOD_BASE_URL",
            id="key unencrypted to a host that is called like this one",
        ),
        pytest.param(
            POD | {"CLIP_POD_BASE_URL": "http://abc.api.runpod.ai", "RUNPOD_API_KEY": "rp-key"},
            "CLIP_POD_BASE_URL",
            id="key unencrypted to a load balancer",
        ),
    ],
)
def test_wrong_settings_name_their_variable(environ: dict[str, str], variable: str) -> None:
    """One line that names the variable, and never a value that may be a secret."""
    with pytest.raises(ConfigurationError) as caught:
        ClipClient(ClientSettings.from_environ(environ))

    assert variable in caught.value.message
    assert "\n" not in caught.value.message
    assert SECRET not in caught.value.message
    assert "u:p" not in caught.value.message
    assert "rp-key" not in caught.value.message


@pytest.mark.parametrize("variable", ["CLIP_INFERENCE_BACKEND", "CLIP_FALLBACK_BACKEND"])
def test_old_name_of_serverless(variable: str, caplog: pytest.LogCaptureFixture) -> None:
    """`runpod` still works and is warned of."""
    with caplog.at_level(logging.WARNING, logger="clip_embedding_client"):
        settings = ClientSettings.from_environ(POD | {variable: "runpod"})

    assert BackendName.SERVERLESS in settings.backends()
    assert ["the backend name runpod is old, use runpod_serverless"] == [
        record.message for record in records_of(caplog, "clip_embedding_client")
    ]


def test_names_of_the_old_system_are_said(caplog: pytest.LogCaptureFixture) -> None:
    """One line names all of them and what took their places; values, which may be secrets, and new names stay out."""
    old = {
        "CLIP_ENABLED": "true",
        "CLIP_FRAME_STRATEGY": "middle",
        "CLIP_RUNPOD_API_KEY": "private",
        "CLIP_RUNPOD_ENDPOINT_ID": "private",
        "CLIP_TEXT_EMBEDDING_URL": "private",
        "CLIP_TIMEOUT_S": "",
    }
    with caplog.at_level(logging.WARNING, logger="clip_embedding_client"):
        ClientSettings.from_environ(POD | {"CLIP_MODEL": "openai/clip", "CLIP_BATCH_SIZE": "8"} | old)

    [record] = records_of(caplog, "clip_embedding_client")
    assert [name for name in old if name != "CLIP_TIMEOUT_S"] == vars(record)["names"]
    assert all(name in record.getMessage() for name in vars(record)["names"])
    assert "CLIP_ENABLED (now CLIP_INFERENCE_BACKEND)" in record.getMessage()
    assert "private" not in record.getMessage()


@pytest.mark.parametrize(
    "name",
    [
        "CLIP_ENABLED",
        "CLIP_NORMALIZE",
        "CLIP_TIMEOUT_S",
        "CLIP_MODEL_NAME",
        "CLIP_PRETRAINED",
        "CLIP_MODEL_VERSION",
        "CLIP_MAX_IMAGE_SIZE",
        "CLIP_FRAME_STRATEGY",
        "CLIP_RUNPOD_TIMEOUT",
        "CLIP_TEXT_EMBEDDING_ENABLED",
    ],
)
def test_each_name_of_the_old_system(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """It changes nothing, and it is warned of."""
    with caplog.at_level(logging.WARNING, logger="clip_embedding_client"):
        settings = ClientSettings.from_environ(POD | {name: "1"})

    assert ClientSettings.from_environ(POD) == settings
    assert [[name]] == [vars(record)["names"] for record in records_of(caplog, "clip_embedding_client")]


def test_own_names_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """No name that the client reads is one of the old system's."""
    with caplog.at_level(logging.WARNING, logger="clip_embedding_client"):
        warn_of_old_names([each.name for each in fields(ClientSettings)])

    assert [] == records_of(caplog, "clip_embedding_client")


def test_fallback_off_is_none() -> None:
    """`off` and nothing mean the same as a fallback."""
    assert [BackendName.POD] == ClientSettings.from_environ(POD | {"CLIP_FALLBACK_BACKEND": "off"}).backends()


def test_secrets_are_not_shown() -> None:
    """Printing settings shows neither secret nor key."""
    shown = repr(ClientSettings.from_environ(SERVERLESS | {"CLIP_FALLBACK_BACKEND": "local"}))

    assert SECRET not in shown
    assert "rp-key" not in shown


@pytest.mark.parametrize("host", ["127.0.0.1:8001", "localhost:8001", "[::1]:8001"])
def test_key_may_stay_on_this_machine(host: str) -> None:
    """Between two processes here nobody can read it."""
    ClipClient(ClientSettings.from_environ(SERVERLESS | {"RUNPOD_BASE_URL": f"http://{host}"})).close()


def test_loopback_needs_no_api_key() -> None:
    """The SDK's local server asks for none."""
    local = {"RUNPOD_API_KEY": "", "RUNPOD_BASE_URL": "http://127.0.0.1:8001", "RUNPOD_CLIP_ENDPOINT_ID": "."}

    ClipClient(ClientSettings.from_environ(SERVERLESS | local)).close()


def test_unsigned_only_on_request() -> None:
    """Without a secret, ALLOW_INSECURE_AUTH has to say that this is meant."""
    environ = POD | {"EMBEDDING_HMAC_SECRET": "", "ALLOW_INSECURE_AUTH": "1"}

    ClipClient(ClientSettings.from_environ(environ)).close()


def test_off() -> None:
    """A worker with the backend off starts, and every use says that it is off."""
    with ClipClient(ClientSettings.from_environ({"CLIP_INFERENCE_BACKEND": "off"})) as client:
        with pytest.raises(BackendOff):
            client.embed_text("x")
        with pytest.raises(BackendOff):
            client.embed_images(["http://a/1.jpg"])
        with pytest.raises(BackendOff):
            client.health()
