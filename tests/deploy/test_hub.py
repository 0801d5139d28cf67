"""RunPod's Hub: both listings against the code that reads what they set, and its release test against the handler."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from core.settings import ServiceSettings, load_settings
from serverless.settings import HandlerSettings, load_handler_settings
from tests.deploy.test_dockerfiles import environment
from tools.testbed.control_plane import ControlPlane, control_plane
from tools.testbed.process import ROOT, handler_process, pod_process

HUB = ROOT / ".runpod"
# Those that the code does not read: the load balancer's own, and the hub's library.
OTHERS = {"PORT_HEALTH", "HEALTH_CHECK_PATH", "HF_HUB_OFFLINE"}
CATEGORIES = {"audio", "embedding", "language", "video", "image"}


@dataclass(frozen=True, slots=True)
class Listing:
    """One of the two, with the image it deploys and the settings that its process reads."""

    folder: Path
    role: str
    settings: type[ServiceSettings]

    @property
    def form(self) -> dict[str, Any]:
        form: dict[str, Any] = json.loads((self.folder / "hub.json").read_text("utf-8"))
        return form

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        return {entry["key"]: entry["input"] for entry in self.form["config"]["env"] if "input" in entry}

    def given(self, values: Mapping[str, object]) -> dict[str, str]:
        """What the container's environment has of these values of the form, as the Hub writes them."""
        return {key: as_text(self.inputs[key], value) for key, value in values.items()}


QUEUE = Listing(HUB, "serverless", HandlerSettings)
BALANCED = Listing(ROOT / "deploy" / "runpod" / "hub-load-balancing", "pod", ServiceSettings)
EACH_LISTING = pytest.mark.parametrize(
    "listing", [pytest.param(QUEUE, id="queue"), pytest.param(BALANCED, id="load balancing")]
)


def as_text(field: Mapping[str, Any], value: object) -> str:
    if field["type"] != "boolean":
        return str(value)
    text: str = field["trueValue" if value else "falseValue"]
    return text


def presets() -> list[Any]:
    return [
        pytest.param(listing, preset["defaults"], id=f"{listing.role}: {preset['name']}")
        for listing in (QUEUE, BALANCED)
        for preset in listing.form["config"]["presets"]
    ]


def sources(role: str) -> str:
    """All code of one image."""
    paths = [path for package in ("core", "shared_auth", role) for path in (ROOT / package).rglob("*.py")]
    return "\n".join(path.read_text("utf-8") for path in paths)


@EACH_LISTING
def test_form_has_what_the_hub_requires(listing: Listing) -> None:
    """By its publishing guide; a listing without one of these is not built."""
    form = listing.form

    assert {"title", "description", "type", "category", "iconUrl", "config"} <= form.keys()
    assert "serverless" == form["type"]
    assert form["category"] in CATEGORIES
    assert {"runsOn", "containerDiskInGb", "gpuCount", "gpuIds"} <= form["config"].keys()
    assert [preset["name"] for preset in form["config"]["presets"]]


def test_one_listing_is_of_each_type() -> None:
    """A repository has one listing: which one is what lies in `.runpod`."""
    assert [None, "LB"] == [listing.form.get("endpointType") for listing in (QUEUE, BALANCED)]


@EACH_LISTING
def test_every_input_is_read(listing: Listing) -> None:
    """By its name in the settings, and by code that asks the settings for it: a field alone does nothing."""
    names = {entry["key"] for entry in listing.form["config"]["env"]} - OTHERS
    code = sources(listing.role)

    assert set() == {name for name in names if name.lower() not in listing.settings.model_fields}
    assert set() == {name for name in names if not re.search(rf"\.{name.lower()}\b", code)}


@EACH_LISTING
def test_form_that_is_sent_as_it_is_changes_nothing(listing: Listing) -> None:
    """Its defaults are those of the image, and where that sets none, of the code."""
    image = environment(listing.role, "cuda")
    shown = listing.given({key: field["default"] for key, field in listing.inputs.items() if "default" in field})
    secret = {"EMBEDDING_HMAC_SECRET": "s3cret"}
    load = load_handler_settings if listing is QUEUE else load_settings

    assert load({**image, **secret}) == load({**image, **secret, **shown})
    assert {image[key] for key in shown if key in OTHERS} == {shown[key] for key in shown if key in OTHERS}
    assert {"EMBEDDING_HMAC_SECRET"} == listing.inputs.keys() - shown.keys()


@EACH_LISTING
def test_default_is_one_of_the_options(listing: Listing) -> None:
    """A menu whose default is not in it shows something else."""
    for field in listing.inputs.values():
        if "options" in field:
            assert field["default"] in [option["value"] for option in field["options"]]


@pytest.mark.parametrize(("listing", "defaults"), presets())
def test_preset_is_one_that_the_service_starts_with(listing: Listing, defaults: dict[str, Any]) -> None:
    """Every value is of an input, within its bounds, and one that the settings take."""
    for key, value in defaults.items():
        field = listing.inputs[key]
        assert field.get("min", value) <= value <= field.get("max", value)
        assert "options" not in field or value in [option["value"] for option in field["options"]]
    settings = load_handler_settings({"EMBEDDING_HMAC_SECRET": "s3cret", **listing.given(defaults)})

    for key, value in listing.given(defaults).items():
        if key not in OTHERS:
            assert value == str(getattr(settings, key.lower()))


@pytest.mark.parametrize(("listing", "defaults"), presets())
def test_preset_holds_what_it_lets_in(listing: Listing, defaults: dict[str, int]) -> None:
    """As many jobs as a worker takes, each as large as it may be, fit into its queue."""
    if listing is QUEUE and "SERVERLESS_CONCURRENCY" in defaults:
        assert defaults["SERVERLESS_CONCURRENCY"] * defaults["MAX_BATCH_SIZE"] <= defaults["MAX_QUEUED_ITEMS"]
    if listing is BALANCED and "MAX_CONCURRENT_REQUESTS" in defaults:
        assert defaults["MAX_CONCURRENT_REQUESTS"] * defaults["MAX_BATCH_SIZE"] <= defaults["MAX_QUEUED_ITEMS"]


@pytest.mark.parametrize(("listing", "defaults"), presets())
def test_other_model_may_be_fetched(listing: Listing, defaults: dict[str, object]) -> None:
    """The images never ask the hub: a model that is not in them would be missing wherever it is not cached."""
    if "CLIP_MODEL" in defaults:
        assert "0" == listing.given(defaults)["HF_HUB_OFFLINE"]


def test_load_balancer_and_pod_agree_on_the_port() -> None:
    """RunPod sets 80 where the form says nothing, which an ordinary user may not be able to listen on."""
    config = BALANCED.form["config"]
    fixed = {entry["key"]: entry["value"] for entry in config["env"] if "value" in entry}

    assert fixed["PORT"] == fixed["PORT_HEALTH"]
    assert [f"{fixed['PORT']}/http"] == config["ports"]


def test_load_balancers_question_is_answered() -> None:
    """By a real pod, with what the form gives it."""
    fixed = {entry["key"]: entry["value"] for entry in BALANCED.form["config"]["env"] if "value" in entry}
    with pod_process({**fixed, "PORT": "0"}) as pod:
        assert 200 == requests.get(pod.base_url + fixed["HEALTH_CHECK_PATH"], timeout=30).status_code


def test_hub_builds_the_image_that_is_deployed() -> None:
    """It takes `.runpod/Dockerfile`: the serverless one, byte for byte."""
    assert (ROOT / "Dockerfile.serverless").read_bytes() == (HUB / "Dockerfile").read_bytes()


@EACH_LISTING
def test_icon_and_badge_are_of_one_repository(listing: Listing) -> None:
    """Whoever publishes puts their own name for `example`, in every file at once."""
    page = (listing.folder / "README.md").read_text("utf-8")
    [badge] = re.findall(r"https://api\.runpod\.io/badge/([\w.-]+/[\w.-]+)", page)
    [link] = re.findall(r"https://console\.runpod\.io/hub/([\w.-]+/[\w.-]+)", page)

    assert f"https://raw.githubusercontent.com/{badge}/main/.runpod/icon.png" == listing.form["iconUrl"]
    assert badge == link
    with Image.open(BytesIO((HUB / "icon.png").read_bytes())) as icon:
        assert ("PNG", (256, 256)) == (icon.format, icon.size)


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """The handler that the Hub finds, with the environment of its release test."""
    config = json.loads((HUB / "tests.json").read_text("utf-8"))["config"]
    settings = {entry["key"]: entry["value"] for entry in config["env"]}
    settings |= {"EMBEDDING_HMAC_SECRET": "", "CLIP_ENGINE": "torch", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(HUB / "handler.py")]
    with control_plane() as plane, handler_process(plane.worker_environment() | settings, command=command):
        yield plane


def cases() -> list[dict[str, Any]]:
    tests: list[dict[str, Any]] = json.loads((HUB / "tests.json").read_text("utf-8"))["tests"]
    return tests


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in cases()])
def test_release_test_passes(plane: ControlPlane, case: dict[str, Any]) -> None:
    """What the Hub will send is answered by the real handler."""
    assert "COMPLETED" == plane.run(case["input"])["status"]


def test_release_test_embeds_an_image() -> None:
    """Texts alone would pass with a broken decoder; by content, so that it needs no address that lasts."""
    assert [case for case in cases() if "image_b64" in case["input"]]
