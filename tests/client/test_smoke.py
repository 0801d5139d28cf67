"""The smoke test passes against what works and fails against what does not."""

import io
import socket
from pathlib import Path

import numpy as np
import pytest
from clip_embedding_client import ClientSettings, ClipClient, ConfigurationError
from clip_embedding_client.__main__ import main
from clip_embedding_client.commands.smoke import CHECKS, SmokeFailure, Target, smoke, with_local_defaults
from clip_embedding_client.commands.smoke_image import red_square_png
from PIL import Image

from tests.client.scripted import Answer, Reply, Seen, answer, json_reply, scripted_server, settings
from tools.testbed.control_plane import API_KEY, ENDPOINT_ID, ControlPlane
from tools.testbed.process import SECRET, PodProcess, ServiceProcess

NO_FILE = Path("/nowhere/.env")


def test_passes_against_the_real_pod(pod: PodProcess, capsys: pytest.CaptureFixture[str]) -> None:
    """Every check is a line that says ok; the image is drawn and served here."""
    environ = {"CLIP_POD_BASE_URL": pod.base_url, "EMBEDDING_HMAC_SECRET": SECRET}
    status = smoke("pod", environ, env_file=NO_FILE)

    lines = capsys.readouterr().out.splitlines()
    assert 0 == status
    assert list(CHECKS) == [line.split("  ")[0] for line in lines[1:]]
    assert all(" ok " in line for line in lines[1:])
    assert "fingerprint" in lines[1]


def test_takes_port_and_secret_of_make_run(pod: PodProcess, tmp_path: Path) -> None:
    """A first run needs no settings: the address is that of `make run`, the secret is in `.env`."""
    env_file = tmp_path / ".env"
    env_file.write_text(f"# made by make run\nEMBEDDING_HMAC_SECRET={SECRET}\n")

    assert 0 == smoke("pod", {"PORT": pod.base_url.rpartition(":")[2]}, env_file=env_file)


def test_finds_them_from_the_current_directory(
    pod: PodProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkout is where the command is called, wherever the client is installed."""
    tmp_path.joinpath(".env").write_text(f"EMBEDDING_HMAC_SECRET={SECRET}\n")
    monkeypatch.chdir(tmp_path)

    assert 0 == main(["smoke", "--target", "pod"], {"PORT": pod.base_url.rpartition(":")[2]})


def test_passes_against_the_real_handler(
    plane: ControlPlane, handler: ServiceProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same checks through RunPod's queue."""
    environ = {
        "RUNPOD_BASE_URL": plane.base_url,
        "RUNPOD_CLIP_ENDPOINT_ID": ENDPOINT_ID,
        "RUNPOD_API_KEY": API_KEY,
        "EMBEDDING_HMAC_SECRET": SECRET,
    }
    status = smoke("serverless", environ, env_file=NO_FILE)

    assert 0 == status
    assert len(CHECKS) == capsys.readouterr().out.count(" ok ")


def test_wrong_secret(pod: PodProcess, capsys: pytest.CaptureFixture[str]) -> None:
    """Another secret is status 1, and the last line names the variable to look at."""
    environ = {"CLIP_POD_BASE_URL": pod.base_url, "EMBEDDING_HMAC_SECRET": "another"}
    status = smoke("pod", environ, env_file=NO_FILE)

    [cause] = capsys.readouterr().err.splitlines()
    assert 1 == status
    assert "single image: AUTH_FAILED" in cause
    assert "EMBEDDING_HMAC_SECRET" in cause


@pytest.mark.parametrize("target", ["pod", "serverless"])
def test_dead_target(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A target that is down is status 1 and one line that says where nothing answered."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = str(unused.getsockname()[1])
        environ = {"PORT": port, "SERVERLESS_PORT": port, "EMBEDDING_HMAC_SECRET": SECRET}
        status = smoke(target, environ, env_file=NO_FILE)

    [cause] = capsys.readouterr().err.splitlines()
    assert 1 == status
    assert f"127.0.0.1:{port} failed at health: CONNECTION_FAILED" in cause


def insecure(seen: Seen) -> Reply:
    return json_reply({"status": "ok", "insecure_auth": True}) if seen.method == "GET" else answer(seen)


@pytest.mark.parametrize(
    ("replies", "cause"),
    [
        pytest.param(answer, "a wrong signature was answered", id="verifies nothing"),
        pytest.param(insecure, "ALLOW_INSECURE_AUTH", id="says so itself"),
    ],
)
def test_target_that_takes_any_signature(replies: Answer, cause: str) -> None:
    """The check sends a forged request for real, so a target that answers it fails."""
    with scripted_server(replies) as script:
        chosen = settings(CLIP_POD_BASE_URL=script.base_url)
        with ClipClient(chosen) as client, pytest.raises(SmokeFailure, match=cause):
            CHECKS["wrong signature"](Target(client, chosen, "http://a/"))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"status": "\x1b[2Jok"}, id="status"),
        pytest.param({"status": "ok", "model_name": "\x1b]0;owned\x07"}, id="model"),
        pytest.param({"status": "ok", "device": "cuda\r\n"}, id="device"),
        pytest.param({"status": "ok", "fingerprint": "\u202e"}, id="fingerprint"),
    ],
)
def test_a_targets_words_do_no_harm(body: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """What a target says of itself is printed on a terminal: anything that is not plain text is a failure."""
    with scripted_server(json_reply(body)) as script:
        environ = {"CLIP_POD_BASE_URL": script.base_url, "EMBEDDING_HMAC_SECRET": SECRET}
        status = smoke("pod", environ, env_file=NO_FILE)

    printed = capsys.readouterr()
    assert 1 == status
    assert all(line.isprintable() for line in (printed.out + printed.err).splitlines())
    assert "failed at health: WRONG_RESPONSE" in printed.err


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        pytest.param({}, "EMBEDDING_HMAC_SECRET", id="no secret"),
        pytest.param(
            {"EMBEDDING_HMAC_SECRET": SECRET, "CLIP_POD_BASE_URL": "https://pod.example"},
            "SMOKE_IMAGE_URL",
            id="no image for a target elsewhere",
        ),
    ],
)
def test_missing_settings(
    environ: dict[str, str],
    variable: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is missing is named, with status 2."""
    monkeypatch.chdir(tmp_path)

    assert 2 == main(["smoke"], environ)
    [line] = capsys.readouterr().err.splitlines()
    assert variable in line


@pytest.mark.parametrize(
    ("environ", "target", "expected"),
    [
        pytest.param({}, "pod", {"CLIP_POD_BASE_URL": "http://127.0.0.1:8000"}, id="pod"),
        pytest.param({"PORT": "9"}, "pod", {"CLIP_POD_BASE_URL": "http://127.0.0.1:9"}, id="pod on another port"),
        pytest.param(
            {},
            "serverless",
            {"RUNPOD_BASE_URL": "http://127.0.0.1:8001", "RUNPOD_CLIP_ENDPOINT_ID": "."},
            id="serverless",
        ),
        pytest.param(
            {"RUNPOD_CLIP_ENDPOINT_ID": ".", "SERVERLESS_PORT": "9"},
            "serverless",
            {"RUNPOD_BASE_URL": "http://127.0.0.1:9", "RUNPOD_CLIP_ENDPOINT_ID": "."},
            id="serverless on another port",
        ),
        pytest.param(
            {"RUNPOD_CLIP_ENDPOINT_ID": "abc"}, "serverless", {"RUNPOD_CLIP_ENDPOINT_ID": "abc"}, id="a real endpoint"
        ),
        pytest.param(
            {"CLIP_FALLBACK_BACKEND": "local"}, "pod", {"CLIP_POD_BASE_URL": "http://127.0.0.1:8000"}, id="no fallback"
        ),
    ],
)
def test_local_defaults(environ: dict[str, str], target: str, expected: dict[str, str]) -> None:
    """Only what is not set is filled in, and only for the target that was asked for."""
    chosen = with_local_defaults(environ, target, NO_FILE)

    given = {name: value for name, value in chosen.items() if name.startswith(("CLIP_POD", "RUNPOD"))}
    assert expected == given
    assert (f"runpod_{target}", "") == (chosen["CLIP_INFERENCE_BACKEND"], chosen["CLIP_FALLBACK_BACKEND"])


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({"EMBEDDING_HMAC_SECRET_FILE": "/nowhere/secret"}, id="secret in a file"),
        pytest.param({"embedding_hmac_secret": "mine"}, id="in small letters"),
    ],
)
def test_secret_that_is_given_another_way(environ: dict[str, str], tmp_path: Path) -> None:
    """However the settings take it, none is added: two of them would be refused, or the wrong one used."""
    env_file = tmp_path / ".env"
    env_file.write_text(f"EMBEDDING_HMAC_SECRET={SECRET}\n")

    assert SECRET not in with_local_defaults(environ, "pod", env_file).values()


@pytest.mark.parametrize("word", ["1", "TRUE", " yes ", "on", "0", "false", "no", "off", "perhaps"])
def test_open_is_read_as_the_settings_read_it(word: str, tmp_path: Path) -> None:
    """Where they take the flag as set, no secret is looked for."""
    env_file = tmp_path / ".env"
    env_file.write_text(f"EMBEDDING_HMAC_SECRET={SECRET}\n")
    given = {"CLIP_INFERENCE_BACKEND": "off", "ALLOW_INSECURE_AUTH": word}
    try:
        is_open = ClientSettings.from_environ(given).allow_insecure_auth
    except ConfigurationError:
        is_open = False

    assert is_open is ("EMBEDDING_HMAC_SECRET" not in with_local_defaults(given, "pod", env_file))


def test_picture() -> None:
    """It is a PNG of a red square on white, by the judgement of an image library."""
    pixels = np.asarray(Image.open(io.BytesIO(red_square_png())))

    assert (256, 256, 3) == pixels.shape
    assert ([255, 255, 255], [220, 20, 20]) == (pixels[0, 0].tolist(), pixels[128, 128].tolist())
