"""What `make run` prepares: a secret that stays, a note for `make smoke`, and the real model or, loudly, another."""

import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from clip_embedding_client import ClientSettings, ClipClient
from clip_embedding_client.commands.smoke import CHECKS, SmokeFailure, Target, with_local_defaults
from clip_embedding_client.commands.smoke_image import red_square_png, serve_on_loopback

from core.settings import DEFAULT_MODEL
from tools.run_local import choose_model, note_run, share_secret
from tools.testbed.loopback import kept_port
from tools.testbed.process import ROOT, SECRET, PodProcess, pod_process
from tools.testbed.target import signed_text

EMBED_TEXT = "/v1/embed/text"
RUN = [sys.executable, "-m", "tools.run_local", "pod"]


def test_secret_is_made_once_and_only_for_its_owner(tmp_path: Path) -> None:
    """The second run signs with the first run's secret."""
    env_file = tmp_path / ".env"
    first: dict[str, str] = {}
    second: dict[str, str] = {}

    share_secret(first, env_file)
    share_secret(second, env_file)

    assert first == second
    assert 64 == len(first["EMBEDDING_HMAC_SECRET"])
    assert 0o600 == stat.S_IMODE(env_file.stat().st_mode)


def test_secret_of_the_environment_wins(tmp_path: Path) -> None:
    """A secret that is set is used, and no file is made."""
    environ = {"EMBEDDING_HMAC_SECRET": "mine"}

    share_secret(environ, tmp_path / ".env")

    assert {"EMBEDDING_HMAC_SECRET": "mine"} == environ
    assert not (tmp_path / ".env").exists()


def test_open_service_takes_no_secret(tmp_path: Path) -> None:
    """ALLOW_INSECURE_AUTH without a secret means it: the one of an earlier run is left alone, and none is made."""
    share_secret({}, tmp_path / ".env")
    environ = {"ALLOW_INSECURE_AUTH": "1"}

    share_secret(environ, tmp_path / ".env")
    share_secret(environ, tmp_path / "other.env")

    assert {"ALLOW_INSECURE_AUTH": "1"} == environ
    assert not (tmp_path / "other.env").exists()


def signing(chosen: dict[str, str]) -> dict[str, str]:
    """What says how requests are signed."""
    return {name: chosen[name] for name in ("EMBEDDING_HMAC_SECRET", "ALLOW_INSECURE_AUTH") if name in chosen}


@pytest.mark.parametrize(
    ("target", "environ"),
    [
        pytest.param("pod", {"PORT": "9"}, id="pod"),
        pytest.param("serverless", {"SERVERLESS_PORT": "9"}, id="serverless"),
        pytest.param("pod", {"CLIP_POD_BASE_URL": "http://localhost:9"}, id="pod by its address"),
    ],
)
@pytest.mark.parametrize(
    ("run", "expected"),
    [
        pytest.param({"EMBEDDING_HMAC_SECRET": " s3\ncret "}, {"EMBEDDING_HMAC_SECRET": " s3\ncret "}, id="secret"),
        pytest.param({"ALLOW_INSECURE_AUTH": "true"}, {"ALLOW_INSECURE_AUTH": "true"}, id="open"),
        pytest.param(
            {"ALLOW_INSECURE_AUTH": "1", "EMBEDDING_HMAC_SECRET": "s3cret"},
            {"ALLOW_INSECURE_AUTH": "1", "EMBEDDING_HMAC_SECRET": "s3cret"},
            id="both",
        ),
    ],
)
def test_smoke_signs_as_the_run_at_that_port_does(
    target: str, environ: dict[str, str], run: dict[str, str], expected: dict[str, str], tmp_path: Path
) -> None:
    """The run's note comes before the secret of other runs in `.env`."""
    env_file = tmp_path / ".env"
    share_secret({}, env_file)
    note_run(run, "9", env_file)

    assert expected == signing(with_local_defaults(environ, target, env_file))


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({"PORT": "8"}, id="another port"),
        pytest.param({"CLIP_POD_BASE_URL": "http://pod.example:9"}, id="another machine"),
        pytest.param({"CLIP_POD_BASE_URL": "https://127.0.0.1"}, id="no port"),
        pytest.param({"CLIP_POD_BASE_URL": "http://127.0.0.1:nine"}, id="what is no port"),
    ],
)
def test_note_is_of_one_port_of_this_machine(environ: dict[str, str], tmp_path: Path) -> None:
    """Whatever else is asked gets the secret in `.env`, as before."""
    env_file = tmp_path / ".env"
    shared: dict[str, str] = {}
    share_secret(shared, env_file)
    note_run({"EMBEDDING_HMAC_SECRET": "s3cret"}, "9", env_file)

    assert shared == signing(with_local_defaults(environ, "pod", env_file))


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({"EMBEDDING_HMAC_SECRET": "mine"}, id="secret"),
        pytest.param({"ALLOW_INSECURE_AUTH": "1"}, id="open"),
    ],
)
def test_what_is_set_for_smoke_wins(environ: dict[str, str], tmp_path: Path) -> None:
    """Neither the run's note nor `.env` is asked where the second terminal says how to sign."""
    env_file = tmp_path / ".env"
    share_secret({}, env_file)
    note_run({"EMBEDDING_HMAC_SECRET": "s3cret"}, "9", env_file)

    assert environ == signing(with_local_defaults({"PORT": "9", **environ}, "pod", env_file))


def test_note_of_a_run_that_has_ended_counts_for_nothing(tmp_path: Path) -> None:
    """What listens there now may be signed otherwise: compose, for one, reads `.env`."""
    env_file = tmp_path / ".env"
    shared: dict[str, str] = {}
    share_secret(shared, env_file)
    program = f"""
import pathlib, tools.run_local
tools.run_local.note_run({{"EMBEDDING_HMAC_SECRET": "s3cret"}}, "9", pathlib.Path({str(env_file)!r}))
"""
    subprocess.run([sys.executable, "-c", program], check=True)

    assert 1 == len(list(tmp_path.rglob("9.json")))
    assert shared == signing(with_local_defaults({"PORT": "9"}, "pod", env_file))


def test_note_is_for_its_owner_only(tmp_path: Path) -> None:
    """It holds a secret, the first time and when it is written again."""
    for _ in range(2):
        note_run({"EMBEDDING_HMAC_SECRET": "s3cret"}, "9", tmp_path / ".env")
        [note] = [path for path in tmp_path.rglob("*") if path.is_file()]

        assert 0o600 == stat.S_IMODE(note.stat().st_mode)


@contextmanager
def run_and_plain_terminal(settings: dict[str, str]) -> Iterator[tuple[PodProcess, Target]]:
    """`make run` with `settings`, and what `make smoke` makes of a terminal that knows nothing but the port."""
    env_file = ROOT / ".env"
    with (
        kept_port() as number,
        pod_process({"EMBEDDING_HMAC_SECRET": "", **settings, "PORT": str(number)}, command=RUN) as pod,
    ):
        port = {"PORT": str(number)}
        chosen = ClientSettings.from_environ(with_local_defaults(port, "pod", env_file))
        try:
            with ClipClient(chosen) as client, serve_on_loopback(red_square_png()) as url:
                yield pod, Target(client, chosen, url)
        finally:
            (ROOT / ".cache" / "run" / f"{port['PORT']}.json").unlink()


@pytest.mark.parametrize(
    ("settings", "last"),
    [
        pytest.param({"EMBEDDING_HMAC_SECRET": "test-secret"}, "refused with AUTH_FAILED", id="secret"),
        pytest.param(
            {"EMBEDDING_HMAC_SECRET": "test-secret", "ALLOW_INSECURE_AUTH": "1"},
            "refused with AUTH_FAILED",
            id="secret and flag",
        ),
        pytest.param({"ALLOW_INSECURE_AUTH": "1"}, "not asked: ALLOW_INSECURE_AUTH is set here and there", id="open"),
    ],
)
def test_smoke_passes_in_a_second_terminal(settings: dict[str, str], last: str) -> None:
    """The secret is in the first terminal's environment only; the second one needs none of its own."""
    with run_and_plain_terminal(settings) as (_, target):
        seen = [CHECKS[name](target) for name in ("health", "single image", "batch", "wrong signature")]

    assert last == seen[-1]


def test_open_run_is_open() -> None:
    """`ALLOW_INSECURE_AUTH=1 make run` answers requests that nobody has signed, and says so in its health."""
    with run_and_plain_terminal({"ALLOW_INSECURE_AUTH": "1"}) as (pod, target):
        answer = requests.post(pod.base_url + EMBED_TEXT, json={"text": "a red circle"}, timeout=30)
        health = target.client.health()

    assert (200, True) == (answer.status_code, health.insecure_auth)


def test_smoke_that_expects_signatures_fails_at_an_open_run() -> None:
    """Who has set a secret learns that the target asks for none."""
    with run_and_plain_terminal({"ALLOW_INSECURE_AUTH": "1"}) as (_, target):
        expecting = replace(target.settings, embedding_hmac_secret="test-secret")
        with pytest.raises(SmokeFailure, match="without signatures"):
            CHECKS["wrong signature"](Target(target.client, expecting, target.image_url))


def test_chosen_model_is_kept() -> None:
    """A model that the user names is never replaced."""
    environ = {"CLIP_MODEL": "/models/mine"}

    choose_model(environ)

    assert {"CLIP_MODEL": "/models/mine"} == environ


def test_cached_model_of_runpod_is_a_choice_too() -> None:
    """The bundled model would otherwise stand in for it, and win."""
    environ = {"MODEL_NAME": "owner/name", "HF_HUB_OFFLINE": "1"}

    choose_model(environ)

    assert "CLIP_MODEL" not in environ


def test_run_serves_the_bundled_model_with_a_warning(tmp_path: Path) -> None:
    """Where the real model cannot be had, `make run` says so loudly and serves signed requests all the same."""
    settings = {"CLIP_MODEL": "", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "EMBEDDING_HMAC_SECRET": SECRET}
    with pod_process(settings, command=RUN) as pod:
        answer = requests.post(pod.base_url + EMBED_TEXT, json=signed_text("a red circle"), timeout=30)
        log = pod.log()

    assert "tiny-shapes" == answer.json()["model_name"]
    assert f"{DEFAULT_MODEL} is not here and could not be fetched" in log
