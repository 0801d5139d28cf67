"""What `make run` prepares: a secret that stays, and a model that is the real one or loudly not."""

import stat
import sys
from pathlib import Path

import requests

from core.settings import DEFAULT_MODEL
from tools.run_local import choose_model, share_secret
from tools.testbed.process import SECRET, pod_process
from tools.testbed.target import signed_text


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


def test_chosen_model_is_kept() -> None:
    """A model that the user names is never replaced."""
    environ = {"CLIP_MODEL": "/models/mine"}

    choose_model(environ)

    assert {"CLIP_MODEL": "/models/mine"} == environ


def test_run_serves_the_bundled_model_with_a_warning(tmp_path: Path) -> None:
    """Where the real model cannot be had, `make run` says so loudly and serves signed requests all the same."""
    command = [sys.executable, "-m", "tools.run_local", "pod"]
    settings = {"CLIP_MODEL": "", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "EMBEDDING_HMAC_SECRET": SECRET}
    with pod_process(settings, command=command) as pod:
        answer = requests.post(pod.base_url + "/v1/embed/text", json=signed_text("a red circle"), timeout=30)
        log = pod.log()

    assert "tiny-shapes" == answer.json()["model_name"]
    assert f"{DEFAULT_MODEL} is not here and could not be fetched" in log
