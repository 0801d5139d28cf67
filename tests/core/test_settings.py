"""Settings: the contract's defaults, and one clear line for a wrong value."""

import pytest

from core.errors import StartError
from core.settings import DEFAULT_MODEL, load_settings

SECRET = {"EMBEDDING_HMAC_SECRET": "s3cret"}


def test_defaults_of_the_contract() -> None:
    """With only a secret set, every limit has the contract's value."""
    settings = load_settings(SECRET)

    assert (8000, 1, "INFO", 16) == (settings.port, settings.workers, settings.log_level, settings.max_batch_size)
    assert (10_485_760, 50_000_000) == (settings.max_image_size_bytes, settings.max_image_pixels)
    assert (30, 8) == (settings.image_download_timeout_s, settings.download_concurrency)
    assert (False, 120, "") == (
        settings.allow_insecure_auth,
        settings.auth_time_window_seconds,
        settings.download_allow_hosts,
    )
    assert ("auto", "auto", "auto") == (settings.clip_device, settings.clip_dtype, settings.clip_engine)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({}, DEFAULT_MODEL, id="neither"),
        pytest.param({"CLIP_MODEL": "/model"}, "/model", id="the model"),
        pytest.param({"MODEL_NAME": "owner/name"}, "owner/name", id="RunPod's name"),
        pytest.param({"MODEL_NAME": "owner/name", "CLIP_MODEL": "/model"}, "/model", id="both"),
        pytest.param({"MODEL_NAME": "owner/name", "CLIP_MODEL": ""}, "owner/name", id="the model set to nothing"),
        pytest.param({"MODEL_NAME": "no id", "CLIP_MODEL": "/model"}, "/model", id="a name that does not count"),
        pytest.param({"MODEL_NAME": ""}, DEFAULT_MODEL, id="a name that is nothing"),
    ],
)
def test_which_variable_names_the_model(environ: dict[str, str], expected: str) -> None:
    """CLIP_MODEL, as the images set it, before the cached model of RunPod, before the default."""
    assert expected == load_settings({**SECRET, **environ}).clip_model


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("PORT", "eight", id="not a number"),
        pytest.param("PORT", "70000", id="no such port"),
        pytest.param("MAX_BATCH_SIZE", "0", id="zero"),
        pytest.param("MAX_BATCH_SIZE", "-1", id="negative"),
        pytest.param("IMAGE_DOWNLOAD_TIMEOUT_S", "inf", id="infinite"),
        pytest.param("IMAGE_DOWNLOAD_TIMEOUT_S", "nan", id="not a number at all"),
        pytest.param("REQUEST_TIMEOUT_S", "1e10", id="longer than a timer can have"),
        pytest.param("LOG_LEVEL", "LOUD", id="unknown level"),
        pytest.param("CLIP_DTYPE", "int4", id="unknown dtype"),
        pytest.param("CLIP_ENGINE", "magic", id="unknown engine"),
        pytest.param("ALLOW_INSECURE_AUTH", "maybe", id="not a flag"),
        pytest.param("MODEL_NAME", "https://hub.example/owner/name", id="a link to a model"),
        pytest.param("MODEL_NAME", "/model", id="a directory for a hub id"),
        pytest.param("MAX_DEVICE_BATCH", "0", id="an empty batch"),
        pytest.param("MAX_DEVICE_BATCH", "large", id="no size"),
    ],
)
def test_wrong_value_names_the_variable(name: str, value: str) -> None:
    """The start is refused with one line that begins with the variable's name."""
    with pytest.raises(StartError) as caught:
        load_settings({**SECRET, name: value})

    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


def test_no_secret_and_no_flag_is_refused() -> None:
    """The service never runs open by accident."""
    with pytest.raises(StartError, match="EMBEDDING_HMAC_SECRET"):
        load_settings({})
    with pytest.raises(StartError, match="EMBEDDING_HMAC_SECRET"):
        load_settings({"EMBEDDING_HMAC_SECRET": ""})


@pytest.mark.parametrize("blank", [" ", "\t\n"])
def test_blank_is_nothing(blank: str) -> None:
    """A secret of blanks is one that everybody guesses, and other values have their defaults."""
    with pytest.raises(StartError, match="EMBEDDING_HMAC_SECRET is not set"):
        load_settings({"EMBEDDING_HMAC_SECRET": blank})
    assert load_settings(SECRET) == load_settings({**SECRET, "PORT": blank, "CLIP_MODEL": blank, "LOG_LEVEL": blank})


@pytest.mark.parametrize(
    ("name", "before"),
    [("EMBEDDING_HMAC_SECRET", ""), ("EMBEDDING_HMAC_SECRET_PREVIOUS", ""), ("API_KEYS", "search:")],
)
def test_template_is_no_secret(name: str, before: str) -> None:
    """What RunPod puts a secret in the place of is in this repository: everybody could sign with it."""
    with pytest.raises(StartError) as caught:
        load_settings({**SECRET, name: before + "{{ RUNPOD_SECRET_clip_hmac }}"})

    assert str(caught.value).startswith(f"{name}: nothing has replaced {{{{ RUNPOD_SECRET_clip_hmac }}}}")


def test_home_that_nobody_knows_is_one_line() -> None:
    """Where a container's user is in no list of users, and HOME is not set."""
    with pytest.raises(StartError, match=r"\ACLIP_CACHE_DIR: "):
        _ = load_settings({**SECRET, "CLIP_CACHE_DIR": "~no-such-user/cache"}).cache_folder


def test_previous_secret_alone_is_refused() -> None:
    """A previous secret only helps a current one."""
    with pytest.raises(StartError, match="EMBEDDING_HMAC_SECRET"):
        load_settings({"EMBEDDING_HMAC_SECRET_PREVIOUS": "old"})


def test_flag_without_secret_is_open_and_with_secret_is_not() -> None:
    """ALLOW_INSECURE_AUTH opens the service only where there is nothing to verify with."""
    assert [] == load_settings({"ALLOW_INSECURE_AUTH": "1"}).hmac_secrets()
    assert ["s3cret"] == load_settings({"ALLOW_INSECURE_AUTH": "1", **SECRET}).hmac_secrets()


def test_secrets_in_signing_order() -> None:
    """While rotating, the current secret comes first."""
    assert ["s3cret", "old"] == load_settings({**SECRET, "EMBEDDING_HMAC_SECRET_PREVIOUS": "old"}).hmac_secrets()


@pytest.mark.parametrize("character", ["é", "\u2009"], ids=["letter", "thin space"])
def test_key_that_no_header_can_hold_is_refused(character: str) -> None:
    """OpenAI's clients cannot send it, and whoever sends it anyway would be told that it is wrong."""
    with pytest.raises(StartError, match=r"API_KEYS: .*the key of me must be ASCII") as refusal:
        load_settings({**SECRET, "API_KEYS": f"me:{'x' * 16}{character}{'x' * 16}"})

    assert "xxx" not in str(refusal.value)


@pytest.mark.parametrize("variable", ["EMBEDDING_HMAC_SECRET", "EMBEDDING_HMAC_SECRET_PREVIOUS"])
def test_client_with_the_common_secret_is_refused(variable: str) -> None:
    """It would be counted, limited and logged as the client `default`. The line names it, and not the secret."""
    secret = "x" * 32
    with pytest.raises(StartError, match="EMBEDDING_HMAC_CLIENTS: indexer") as refusal:
        load_settings({**SECRET, variable: secret, "EMBEDDING_HMAC_CLIENTS": f"indexer:{secret}"})

    assert secret not in str(refusal.value)


def test_secret_is_not_shown() -> None:
    """Printing the settings shows no secret."""
    assert "s3cret" not in repr(load_settings(SECRET))
