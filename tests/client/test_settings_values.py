"""Settings, one by one: what each variable takes, what it becomes, and that nothing else happens for anything else."""

from collections.abc import Mapping
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_embedding_client import BackendName, ClientSettings, ConfigurationError
from clip_embedding_client.policy import Policy
from hypothesis import given
from hypothesis import strategies as st

SECRET, KEY = "a-secret-of-the-service", "rp-a-key-of-the-account"
NAMES = [each.name for each in fields(ClientSettings) if "parse" in each.metadata]

READ: Mapping[str, list[tuple[str, object]]] = {
    "CLIP_INFERENCE_BACKEND": [
        ("runpod_pod", BackendName.POD),
        (" Runpod_Serverless ", BackendName.SERVERLESS),
        ("local", BackendName.LOCAL),
        ("OFF", BackendName.OFF),
    ],
    "CLIP_FALLBACK_BACKEND": [("local", BackendName.LOCAL), ("", None)],
    "EMBEDDING_HMAC_SECRET": [("s", "s"), (" größer ", " größer "), ("", None)],
    "ALLOW_INSECURE_AUTH": [("1", True), ("True", True), ("on", True), ("yes", True), ("0", False), ("no", False)],
    "CLIP_POD_BASE_URL": [
        ("http://pod:8000/", "http://pod:8000"),
        ("https://pod/path//", "https://pod/path"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://xn--bcher-kva.example", "http://xn--bcher-kva.example"),
        ("", None),
    ],
    "CLIP_POD_TIMEOUT_S": [("0.5", 0.5), ("1e3", 1000.0), ("", 60.0)],
    "RUNPOD_API_KEY": [("rp_1-2", "rp_1-2"), ("", None)],
    "RUNPOD_CLIP_ENDPOINT_ID": [("abc-1_2", "abc-1_2"), (".", "."), ("", None)],
    "RUNPOD_BASE_URL": [("http://localhost:8001", "http://localhost:8001"), ("", "https://api.runpod.ai/v2")],
    "RUNPOD_TIMEOUT_S": [("90", 90.0), ("", 120.0)],
    "CLIP_CONNECT_TIMEOUT_S": [("2", 2.0), ("", 5.0)],
    "CLIP_RETRY_ATTEMPTS": [("1", 1), ("", 4)],
    "CLIP_TOTAL_TIMEOUT_S": [("1000000", 1_000_000.0), ("", 180.0)],
    "CLIP_BATCH_SIZE": [(" 8 ", 8), ("", 16)],
    "CLIP_TEXT_BATCH_SIZE": [("256", 256), ("", 64)],
    "CLIP_CONCURRENT_BATCHES": [("9", 9), ("", 4)],
    "CLIP_BREAKER_FAILURES": [("1", 1), ("", 2)],
    "CLIP_BREAKER_COOL_DOWN_S": [("0.1", 0.1), ("", 30.0)],
    "CLIP_EXPECTED_FINGERPRINT": [("2-0123456789abcdef", "2-0123456789abcdef"), ("", None)],
    "CLIP_ALLOW_FINGERPRINT_MISMATCH": [("off", False), ("1", True), ("", False)],
}

NO_NUMBERS = ["x", "nan", "-1", "0", "1 2"]
NO_COUNTS = [*NO_NUMBERS, "1.5", "inf", "\N{ARABIC-INDIC DIGIT TWO}", "9" * 5000, "1e3", "+1"]
NO_SECONDS = [*NO_NUMBERS, "inf", "1000001", "1e999"]
NO_FLAGS = ["2", "maybe", "ja"]
NO_URLS = [
    "pod:8000",
    "ftp://pod",
    "http://",
    "http:///path",
    "http://u:p@pod",
    "http://pod?a=1",
    "http://pod#a",
    "http://pod:99999",
    "http://pod:port",
    "http://[::1",
    "http://pod\n",
    "http://p od",
    "http://a..b",
    "http://" + "a" * 64,
    "http://\N{SNOWMAN}.example",
]
REFUSED: Mapping[str, list[str]] = {
    "CLIP_INFERENCE_BACKEND": ["gpu", "runpod_pod,local"],
    "CLIP_FALLBACK_BACKEND": ["gpu", "none"],
    "EMBEDDING_HMAC_SECRET": ["\udcff"],
    "ALLOW_INSECURE_AUTH": NO_FLAGS,
    "CLIP_POD_BASE_URL": NO_URLS,
    "CLIP_POD_TIMEOUT_S": NO_SECONDS,
    "RUNPOD_API_KEY": ["key\n", "a key", "schlüssel"],
    "RUNPOD_CLIP_ENDPOINT_ID": ["a/b", "..", "a b", "abc\n"],
    "RUNPOD_BASE_URL": NO_URLS,
    "RUNPOD_TIMEOUT_S": NO_SECONDS,
    "CLIP_CONNECT_TIMEOUT_S": NO_SECONDS,
    "CLIP_RETRY_ATTEMPTS": NO_COUNTS,
    "CLIP_TOTAL_TIMEOUT_S": NO_SECONDS,
    "CLIP_BATCH_SIZE": NO_COUNTS,
    "CLIP_TEXT_BATCH_SIZE": NO_COUNTS,
    "CLIP_CONCURRENT_BATCHES": NO_COUNTS,
    "CLIP_BREAKER_FAILURES": NO_COUNTS,
    "CLIP_BREAKER_COOL_DOWN_S": NO_SECONDS,
    "CLIP_ALLOW_FINGERPRINT_MISMATCH": NO_FLAGS,
}


def made(**given: Any) -> ClientSettings:  # noqa: ANN401 - whatever a caller gives
    return ClientSettings(**({"clip_inference_backend": "runpod_pod"} | given))


def rows(table: Mapping[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(variable, value, id=f"{variable}-{number}")
        for variable, values in table.items()
        for number, value in enumerate(values)
    ]


def test_every_variable_is_here() -> None:
    """A new setting is not forgotten: each has values that are read, and each but free text has some that are not."""
    assert set(NAMES) == {variable.lower() for variable in READ}
    assert {"clip_expected_fingerprint"} == set(NAMES) - {variable.lower() for variable in REFUSED}


@pytest.mark.parametrize(("variable", "pair"), rows(READ))
def test_what_a_variable_becomes(variable: str, pair: tuple[str, object]) -> None:
    """From the environment, in capitals; one that is set to nothing has the value that it has when it is not set."""
    text, expected = pair
    settings = ClientSettings.from_environ({"CLIP_INFERENCE_BACKEND": "runpod_pod", variable: text})

    value = getattr(settings, variable.lower())
    assert (expected, type(expected)) == (value, type(value))


@pytest.mark.parametrize(("variable", "text"), rows(REFUSED))
def test_what_a_variable_does_not_take(variable: str, text: str) -> None:
    """One line that names the variable and what it takes, and not the value."""
    with pytest.raises(ConfigurationError) as caught:
        ClientSettings.from_environ({"CLIP_INFERENCE_BACKEND": "runpod_pod", variable: text})

    assert caught.value.message.startswith(f"{variable}: must ")
    assert caught.value.message.isprintable()
    assert f"{text!r}" not in caught.value.message


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({"clip_batch_size": 8}, 8, id="number"),
        pytest.param({"clip_batch_size": np.int64(8)}, 8, id="number of NumPy"),
        pytest.param({"clip_pod_timeout_s": 2}, 2.0, id="whole seconds"),
        pytest.param({"clip_pod_timeout_s": Fraction(1, 2)}, 0.5, id="fraction of a second"),
        pytest.param({"clip_inference_backend": BackendName.OFF}, BackendName.OFF, id="backend"),
        pytest.param({"clip_inference_backend": "off"}, BackendName.OFF, id="backend's name"),
        pytest.param({"clip_fallback_backend": None}, None, id="no fallback"),
        pytest.param({"allow_insecure_auth": True}, True, id="flag"),
        pytest.param({"allow_insecure_auth": 1}, True, id="flag as number"),
    ],
)
def test_values_by_keyword(given: dict[str, Any], expected: object) -> None:
    """In code they have the types that they are read as; text does as well."""
    [name] = given

    value = getattr(made(**given), name)
    assert (expected, type(expected)) == (value, type(value))


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"clip_batch_size": True}, id="flag as number"),
        pytest.param({"clip_batch_size": 8.0}, id="number with a fraction"),
        pytest.param({"clip_batch_size": None}, id="nothing as number"),
        pytest.param({"clip_batch_size": 10**5000}, id="number without end"),
        pytest.param({"clip_pod_timeout_s": True}, id="flag as seconds"),
        pytest.param({"clip_pod_timeout_s": 10**400}, id="seconds without end"),
        pytest.param({"clip_pod_timeout_s": float("nan")}, id="no number"),
        pytest.param({"allow_insecure_auth": 2}, id="number as flag"),
        pytest.param({"allow_insecure_auth": None}, id="nothing as flag"),
        pytest.param({"clip_inference_backend": None}, id="no backend"),
        pytest.param({"embedding_hmac_secret": b"secret"}, id="bytes as secret"),
        pytest.param({"embedding_hmac_secret": ""}, id="empty secret"),
        pytest.param({"clip_pod_base_url": Path("/pod")}, id="path as URL"),
    ],
)
def test_wrong_values_by_keyword(given: dict[str, Any]) -> None:
    """They are refused when the settings are made, in the words of the environment."""
    [name] = given
    with pytest.raises(ConfigurationError) as caught:
        made(**given)

    assert caught.value.message.startswith(f"{name.upper()}: ")


def test_changed_settings_are_checked_too() -> None:
    """`dataclasses.replace` keeps what was read, and refuses what would have been refused before."""
    settings = ClientSettings(clip_inference_backend=BackendName.OFF, clip_batch_size=3)
    changed = replace(settings, clip_retry_attempts=9)

    assert (3, 9) == (changed.clip_batch_size, changed.clip_retry_attempts)
    with pytest.raises(ConfigurationError):
        replace(settings, clip_batch_size=0)


@pytest.mark.parametrize("variable", ["EMBEDDING_HMAC_SECRET", "RUNPOD_API_KEY"])
def test_secret_in_a_file(variable: str, tmp_path: Path) -> None:
    """`_FILE` names it, as orchestrators mount secrets; the line break at its end is not part of it."""
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    settings = ClientSettings.from_environ({"CLIP_INFERENCE_BACKEND": "off", f"{variable}_FILE": str(file)})

    assert SECRET == getattr(settings, variable.lower())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(None, "cannot be read: No such file", id="no file"),
        pytest.param(b"\xff\xfe", "cannot be read: it is not text", id="not text"),
        pytest.param(b" \n", "is empty", id="empty"),
    ],
)
def test_file_that_holds_no_secret(content: bytes | None, words: str, tmp_path: Path) -> None:
    """The variable of the file is named, and what is wrong with it."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    environ = {"CLIP_INFERENCE_BACKEND": "off", "EMBEDDING_HMAC_SECRET_FILE": str(file)}

    with pytest.raises(ConfigurationError, match=f"EMBEDDING_HMAC_SECRET_FILE: the file {words}"):
        ClientSettings.from_environ(environ)


def test_file_with_a_secret_that_is_none(tmp_path: Path) -> None:
    """What is read from a file is checked as what is given."""
    file = tmp_path / "key"
    file.write_text("a key")

    with pytest.raises(ConfigurationError, match="RUNPOD_API_KEY: must be") as caught:
        ClientSettings.from_environ({"CLIP_INFERENCE_BACKEND": "off", "RUNPOD_API_KEY_FILE": str(file)})
    assert "a key" not in caught.value.message


def test_secret_given_both_ways(tmp_path: Path) -> None:
    """Nobody guesses which one is meant."""
    environ = {
        "CLIP_INFERENCE_BACKEND": "off",
        "RUNPOD_API_KEY": KEY,
        "RUNPOD_API_KEY_FILE": str(tmp_path / "key"),
    }

    with pytest.raises(ConfigurationError, match="RUNPOD_API_KEY and RUNPOD_API_KEY_FILE are both set"):
        ClientSettings.from_environ(environ)


def test_nothing_secret_is_shown() -> None:
    """Neither `repr` nor a traceback's view of the settings has a secret in it, `local`'s environment included."""
    environ = {"CLIP_INFERENCE_BACKEND": "local", "EMBEDDING_HMAC_SECRET": SECRET, "RUNPOD_API_KEY": KEY}
    settings = ClientSettings.from_environ(environ)

    assert (SECRET, environ) == (settings.embedding_hmac_secret, dict(settings.local_environ))
    assert [] == [secret for secret in (SECRET, KEY) if secret in repr(settings) + str(settings)]


def test_environment_is_passed_on_to_local_alone() -> None:
    """No other backend needs all of it."""
    environ = {"CLIP_INFERENCE_BACKEND": "runpod_pod", "CLIP_DTYPE": "float32"}

    assert {} == dict(ClientSettings.from_environ(environ).local_environ)
    fallback = environ | {"CLIP_FALLBACK_BACKEND": " Local "}
    assert fallback == dict(ClientSettings.from_environ(fallback).local_environ)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, 10**5000, -(10**5000)])
    | st.floats()
    | st.complex_numbers()
    | st.fractions()
    | st.decimals()
    | st.binary()
    | st.text()
    | st.text(alphabet=st.characters())
    | st.builds("http://{}".format, st.text(alphabet=st.characters()))
    | st.dates()
    | st.just(object())
)
ANYTHING = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(), SCALARS, max_size=3)


@given(st.sampled_from(NAMES), ANYTHING)
def test_whatever_a_setting_is_set_to(name: str, value: object) -> None:
    """It is taken, and then can be shown, or it is `ConfigurationError`, whose one line names the variable."""
    message = f"{name.upper()}: "
    try:
        shown = repr(made(**{name: value}))
    except ConfigurationError as error:
        message, shown = error.message, ""

    assert message.startswith(f"{name.upper()}: ")
    assert message.isprintable()
    assert shown.isprintable()


@given(
    st.dictionaries(st.sampled_from([name.upper() for name in NAMES]), st.text(), max_size=4),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
    st.sampled_from(["", "_FILE"]),
)
def test_no_message_tells_a_secret(environ: dict[str, str], noise: str, suffix: str) -> None:
    """Whatever else is wrong, and however the secret itself is, it is in no message, nor in what can be shown."""
    secrets = {f"EMBEDDING_HMAC_SECRET{suffix}": f"private{noise}", "RUNPOD_API_KEY": f"private{noise}"}
    try:
        settings = ClientSettings.from_environ({"CLIP_INFERENCE_BACKEND": "runpod_pod"} | environ | secrets)
        shown = repr(settings)
        Policy.of(settings)
    except ConfigurationError as error:
        shown = str(error)

    assert "private" not in shown


@given(st.sampled_from(NAMES), st.text() | st.floats(0.001, 1e6) | st.integers(1, 10**9))
def test_what_was_read_is_read_again_as_it_is(name: str, value: object) -> None:
    """Settings that are changed by `replace` are read a second time, and stay what they are."""
    try:
        settings = made(**{name: value})
    except ConfigurationError:
        return

    assert settings == replace(settings)
