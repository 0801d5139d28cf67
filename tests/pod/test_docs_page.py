"""`/`, and the page at `/docs` as a reader has it: in a real browser, over a pod that was started by `make run`."""

import base64
import hashlib
import json
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import requests
from playwright.sync_api import Page, Request

from core.service import VERSION
from models.shapes import draw, single
from pod.openapi_examples import EXAMPLE_SECRET
from shared_auth import Authenticator
from shared_auth.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT, EMBED_TEXT_BATCH
from tools.testbed import browser
from tools.testbed.image_server import ImageServer
from tools.testbed.pictures import encoded
from tools.testbed.process import ROOT, SECRET, PodProcess, pod_process

RUN = [sys.executable, "-m", "tools.run_local", "pod"]
PAGE_FILES = [
    "/docs/page.css",
    "/docs/page.js",
    "/docs/signing.js",
    "/docs/swagger-ui.css",
    "/docs/swagger-ui-bundle.js",
]
VECTORS = json.loads((ROOT / "tests" / "shared_auth" / "vectors.json").read_text())["vectors"]

needs_browser = pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium here: `make browser` installs it")


@pytest.fixture(scope="module")
def run_pod() -> Iterator[PodProcess]:
    """A pod as `make run` starts it, which accepts the examples' secret."""
    with pod_process({"EMBEDDING_HMAC_SECRET_PREVIOUS": EXAMPLE_SECRET}, command=RUN) as pod:
        yield pod
    # What it notes for `make smoke`, under the port that was asked for.
    (ROOT / ".cache" / "run" / "0.json").unlink()


def test_index_is_always_there(pod: PodProcess, run_pod: PodProcess) -> None:
    """It links to what there is and to nothing else."""
    plain, described = (requests.get(one.base_url + "/", timeout=30).json() for one in (pod, run_pod))

    expected: dict[str, object] = {"name": "clip-embedding-service", "version": VERSION}
    links = {"health": "/health"}
    assert {**expected, "links": links} == plain
    assert {**expected, "links": links | {"openapi": "/openapi.json", "docs": "/docs"}} == described


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", *PAGE_FILES, "/static/page.js"])
def test_description_is_off_by_default(pod: PodProcess, path: str) -> None:
    """Refused like any path that does not exist."""
    response = requests.get(pod.base_url + path, timeout=30)

    assert (404, "NOT_FOUND") == (response.status_code, response.json()["error"]["code"])


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        pytest.param("/openapi.json", "application/json", id="description"),
        pytest.param("/docs", "text/html; charset=utf-8", id="page"),
        pytest.param("/docs/signing.js", "text/javascript; charset=utf-8", id="script"),
        pytest.param("/docs/swagger-ui.css", "text/css; charset=utf-8", id="style"),
    ],
)
def test_run_serves_the_page(run_pod: PodProcess, path: str, content_type: str) -> None:
    """`make run` turns it on, and every file of it is held to this service alone."""
    response = requests.get(run_pod.base_url + path, timeout=30)
    policy = response.headers["Content-Security-Policy"].split("; ")

    assert (200, content_type) == (response.status_code, response.headers["Content-Type"])
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"} <= set(policy)
    assert "unsafe" not in " ".join(policy)


def test_service_takes_the_examples(run_pod: PodProcess) -> None:
    """They are right and too old, which is found out in this order."""
    described = requests.get(run_pod.base_url + "/openapi.json", timeout=30).json()["paths"]
    examples = {
        (path, name): example["value"]
        for path, methods in described.items()
        if "x-signed" in methods.get("post", {})
        for name, example in methods["post"]["requestBody"]["content"]["application/json"]["examples"].items()
    }
    codes = {
        which: requests.post(run_pod.base_url + which[0], json=body, timeout=30).json()["error"]["code"]
        for which, body in examples.items()
    }

    assert dict.fromkeys(examples, "AUTH_EXPIRED") == codes
    assert len(codes) >= 4


class Visit:
    """A page that is open in a browser, with everything it has asked for and complained of."""

    def __init__(self, page: Page, base_url: str) -> None:
        self.page = page
        self.base_url = base_url
        self.requests: list[Request] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)

    def open(self) -> None:
        """Load the page anew."""
        self.requests.clear()
        self.complaints.clear()
        self.page.goto(self.base_url + "/docs")
        self.page.wait_for_selector(".opblock")

    def execute(self, path: str, body: str, *, secret: str) -> dict[str, Any]:
        """Type secret and body, press Execute, and return the answer's body."""
        operation = f"#operations-embed-{path.removeprefix('/v1/').replace('/', '_').replace('-', '_')}"
        self.page.fill("#secret", secret)
        self.page.click(f"{operation} .opblock-summary-control")
        self.page.fill(f"{operation} textarea.body-param__text", body)
        with self.page.expect_response(self.base_url + path) as answered:
            self.page.click(f"{operation} .execute")
        answer: dict[str, Any] = answered.value.json()
        # The page shows it, too.
        shown = self.page.locator(f"{operation} .live-responses-table .response-col_status").last
        assert str(answered.value.status) in shown.inner_text()
        return answer


@pytest.fixture(scope="module")
def browser_visit(run_pod: PodProcess) -> Iterator[Visit]:
    """One browser for the module; while it is open nothing else here may run an event loop."""
    with browser.page() as page:
        yield Visit(page, run_pod.base_url)


@pytest.fixture
def visit(browser_visit: Visit) -> Visit:
    """The page, freshly loaded."""
    browser_visit.open()
    return browser_visit


def picture(images: ImageServer, name: str = "a") -> str:
    return images.add(f"/page-{name}.png", encoded(draw(single("red", "circle"), 64), "PNG"))


@needs_browser
def test_text_is_embedded_from_the_page(visit: Visit) -> None:
    """What the reader types is signed in the browser and answered with a vector."""
    answer = visit.execute(EMBED_TEXT, '{"text": "ein roter Kreis \u00e9\U0001f534"}', secret=SECRET)

    assert 512 == len(answer["embedding"])


@needs_browser
def test_image_is_embedded_from_the_page(visit: Visit, images: ImageServer) -> None:
    """The URL is signed as it was typed."""
    answer = visit.execute(EMBED_IMAGE, json.dumps({"image_url": picture(images) + "?x=1|2"}), secret=SECRET)

    assert 512 == len(answer["embedding"])


@needs_browser
@pytest.mark.parametrize(
    ("path", "member"),
    [pytest.param(EMBED_TEXT_BATCH, "text", id="texts"), pytest.param(EMBED_IMAGE_BATCH, "image_url", id="images")],
)
def test_batch_is_embedded_from_the_page(visit: Visit, images: ImageServer, path: str, member: str) -> None:
    """Every item gets a signature of its own, for the batch's path."""
    items = [{member: picture(images, name), "request_id": name} for name in ("first", "second")]
    answer = visit.execute(path, json.dumps({"items": items}), secret=SECRET)

    assert ["first", "second"] == [result["request_id"] for result in answer["results"]]
    assert [512, 512] == [len(result["embedding"]) for result in answer["results"]]


@needs_browser
@pytest.mark.parametrize("secret", ["wrong", ""], ids=["wrong secret", "no secret"])
def test_wrong_secret_is_refused_in_the_page(visit: Visit, secret: str) -> None:
    """The reader sees the service's own answer."""
    answer = visit.execute(EMBED_TEXT, '{"text": "a"}', secret=secret)

    assert "AUTH_FAILED" == answer["error"]["code"]
    assert "AUTH_FAILED" in visit.page.inner_text("#operations-embed-embed_text .live-responses-table")


@needs_browser
def test_wrong_body_is_sent_as_it_is(visit: Visit) -> None:
    """What cannot be signed is for the service to refuse."""
    assert "INVALID_JSON" == visit.execute(EMBED_TEXT, '{"text": ', secret=SECRET)["error"]["code"]


@needs_browser
def test_page_keeps_to_its_host_and_the_secret_to_the_page(visit: Visit) -> None:
    """Nothing is asked of another host, nothing breaks the policy, and the secret is neither sent nor stored."""
    secret = "a secret that nothing else on this page resembles"
    visit.execute(EMBED_TEXT, '{"text": "a"}', secret=secret)
    sent = [f"{one.url} {one.headers} {one.post_data}" for one in visit.requests]
    stored = visit.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")

    assert [] == [one for one in sent if not one.startswith((visit.base_url + "/", "data:"))]
    assert [] == [one for one in [*sent, stored] if secret in one or quote(secret) in one]
    # The refusal itself is one line of the console.
    assert [] == [line for line in visit.complaints if "401" not in line]


@needs_browser
def test_page_says_where_it_cannot_sign(visit: Visit) -> None:
    """Browsers have no WebCrypto over plain HTTP from another machine: the field is closed, the rest is shown."""
    visit.page.goto(visit.base_url.replace("127.0.0.1", browser.OTHER_NAME) + "/docs")
    visit.page.wait_for_selector(".opblock")

    assert visit.page.is_disabled("#secret")
    assert "https or localhost" in visit.page.inner_text("#note")


@pytest.fixture(scope="module")
def signing(browser_visit: Visit) -> Visit:
    """The page, loaded once for all that leaves it as it is."""
    browser_visit.open()
    return browser_visit


def sign_in_page(visit: Visit, body: Any, *, secret: str, path: str, ts: int) -> Any:  # noqa: ANN401
    """What the page's own script makes of a body."""
    return visit.page.evaluate(
        """async ([body, options]) => (await import("/docs/signing.js")).signed(body, options)""",
        [body, {"secret": secret, "path": path, "ts": ts}],
    )


@needs_browser
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_page_signs_by_the_rule(signing: Visit, vector: dict[str, Any]) -> None:
    """The fixed vectors, as every other signer has them."""
    body: dict[str, object] = {name: vector[name] for name in ("image_url", "text") if name in vector}
    signed = sign_in_page(signing, body, secret=vector["secret"], path=vector["path"], ts=vector["ts"])

    assert {**body, "auth": {"ts": vector["ts"], "sig": vector["sig"]}} == signed


@needs_browser
def test_page_signs_an_images_bytes(signing: Visit) -> None:
    """What is signed is the hash of the decoded bytes; in a batch, of each item's."""
    contents = [bytes(range(256)), b"\x00"]
    authenticator = Authenticator([SECRET], clock=lambda: 1_703_001_234)
    auths = [authenticator.sign("/p", hashlib.sha256(content).hexdigest()).as_dict() for content in contents]
    items = [{"image_b64": base64.b64encode(content).decode(), "auth": "old"} for content in contents]
    signed = sign_in_page(signing, {"items": items}, secret=SECRET, path="/p", ts=1_703_001_234)

    assert auths == [item["auth"] for item in signed["items"]]


@needs_browser
@pytest.mark.parametrize(
    "body", [None, 1, "text", [], {}, {"items": [None, 1, []]}, {"image_b64": "%"}, {"text": 1}], ids=json.dumps
)
def test_page_leaves_alone_what_it_cannot_sign(signing: Visit, body: object) -> None:
    """Whatever else a reader types reaches the service as it was typed."""
    assert body == sign_in_page(signing, body, secret=SECRET, path="/p", ts=1_703_001_234)
