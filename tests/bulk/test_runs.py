"""Whole runs on a Ray: what comes out, and that nothing which ends a process, a run or a disk takes a row away."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree

import numpy as np
import pyarrow as pa
import pytest
from clip_embedding_client import ClientSettings, ClipClient, Embedding
from pyarrow import csv, fs, parquet

from tests.bulk.commands import Ended, Head, Table, head, kill_actor, kill_decoder, pieces_of, run, started, table_of
from tests.bulk.object_store import S3_KEYS, s3
from tools.testbed.image_server import Gate, ImageServer
from tools.testbed.pictures import encoded, natural
from tools.testbed.process import SECRET, TINY_MODEL, PodProcess

pytestmark = pytest.mark.timeout(1800)

# Relative to the length of a vector, in float32: batches of different sizes add in a different order.
TOLERANCE = 1e-4

PICTURES = 12
ROWS = 90
PIECE_ROWS = 5
PIECES_BEFORE_THE_GATE = 6
# Of two pieces, as many as are decoded at once: when they wait at a gate a run stands still in its middle.
GATED = {"row-at-the-gate": 41, "another-at-the-gate": 46}
REJECTED = {
    "nobody": ("", "VALIDATION_ERROR", False),
    "missing": ("/bulk-missing.png", "DOWNLOAD_ERROR", False),
    "private": ("http://10.0.0.1/a.png", "URL_NOT_ALLOWED", False),
    "broken": ("/bulk-broken.png", "INVALID_IMAGE", False),
    "busy": ("/bulk-busy.png", "DOWNLOAD_ERROR", True),
}
# A gate may be closed for long where a machine has much to do.
SETTINGS = {"IMAGE_DOWNLOAD_TIMEOUT_S": "200"}


@pytest.fixture(scope="module")
def ray() -> Iterator[Head]:
    """One for all runs of this file."""
    with head(S3_KEYS) as there:
        yield there


@dataclass(frozen=True, slots=True)
class Case:
    """An input, and what has come out of a run that nothing disturbed."""

    urls: dict[object, str]
    arguments: list[str]
    output: Path
    ended: Ended
    made: Table


@pytest.fixture(scope="module")
def case(ray: Head, images: ImageServer, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("case")
    images.add("/bulk-broken.png", b"\x89PNG but not really")
    known = [images.add(f"/bulk-{number}.png", encoded(natural(60, 40, number), "PNG")) for number in range(PICTURES)]
    images.add("/bulk-busy.png", encoded(natural(60, 40, 99), "PNG"))
    images.busy.add("/bulk-busy.png")
    gated = images.add("/bulk-gated.png", encoded(natural(60, 40, 98), "PNG"))
    # No order of names or numbers: that of the input is the output's.
    rows: list[tuple[object, str]] = [(f"row-{(n * 37) % ROWS}", known[n % PICTURES]) for n in range(ROWS)]
    for place, (name, (given, _, _)) in enumerate(REJECTED.items()):
        rows.insert(11 * place, (name, images.base_url + given if given.startswith("/") else given))
    for name, place in GATED.items():
        rows.insert(place, (name, gated))
    urls = dict(rows)
    csv.write_csv(pa.table({"key": list(urls), "url": list(urls.values())}), folder / "rows.csv")
    arguments = ["embed", "--input", str(folder / "rows.csv"), "--url-column", "url", "--id-column", "key"]
    arguments += ["--piece-rows", str(PIECE_ROWS)]
    output = folder / "whole"
    ended = run([*arguments, "--output", str(output)], SETTINGS | ray.settings, output=output)
    assert 0 == ended.status, ended
    return Case(urls, arguments, output, ended, table_of(output))


def pod_client(base_url: str) -> dict[str, str]:
    """The client's own settings."""
    return {"CLIP_INFERENCE_BACKEND": "runpod_pod", "CLIP_POD_BASE_URL": base_url, "EMBEDDING_HMAC_SECRET": SECRET}


def said(ended: Ended) -> list[str]:
    """What is no progress."""
    return [line for line in ended.err.splitlines() if " rows, " not in line]


def assert_same(expected: Table, actual: Table) -> None:
    assert expected.ids == actual.ids
    assert expected.rejects == actual.rejects
    assert expected.fingerprints == actual.fingerprints
    assert float(np.abs(expected.vectors - actual.vectors).max()) < TOLERANCE


def test_every_row_is_there_once_with_the_services_vector(case: Case, pod: PodProcess) -> None:
    """In the order of the input, each with its fingerprint, or among the rejects with the service's own code."""
    good = [identity for identity in case.urls if identity not in REJECTED]
    with ClipClient(ClientSettings.from_environ(pod_client(pod.base_url))) as client:
        of_pod = client.embed_images(sorted({case.urls[identity] for identity in good}))
        fingerprint = client.health().fingerprint
    by_url = dict(zip(sorted({case.urls[identity] for identity in good}), of_pod, strict=True))

    assert good == case.made.ids
    assert {name: (code, again) for name, (_, code, again) in REJECTED.items()} == case.made.rejects
    assert {fingerprint} == case.made.fingerprints
    for identity, vector in zip(case.made.ids, case.made.vectors, strict=True):
        expected = by_url[case.urls[identity]]
        assert isinstance(expected, Embedding)
        assert float(np.linalg.norm(expected.vector - vector)) < TOLERANCE
    counted = f"{len(case.urls)} rows = {ROWS + 2} vectors + 5 rejects\n  DOWNLOAD_ERROR: 2\n"
    assert case.ended.out.startswith(counted)
    assert [] == pieces_of(case.output)


@pytest.fixture
def gate(images: ImageServer) -> Iterator[Gate]:
    """Closed: no run comes further than the pieces before it."""
    _, gate = images.add_gated("/bulk-gated.png", images.files["/bulk-gated.png"])
    yield gate
    gate.open()
    del images.gates["/bulk-gated.png"]


def test_killed_and_gone_on_with(case: Case, ray: Head, gate: Gate, tmp_path: Path) -> None:
    """A driver that is killed, and one that is told to end, lose nothing: the output is that of an undisturbed run.

    In between an output is there, which is not written over unasked.
    """
    out = tmp_path / "out"
    arguments, settings = [*case.arguments, "--output", str(out)], SETTINGS | ray.settings
    with started(arguments, settings, output=out) as command:
        command.wait_for_pieces(PIECES_BEFORE_THE_GATE // 2)
        command.process.kill()
        command.end()
    unasked = run(arguments, settings, output=out)
    with started([*arguments, "--resume"], settings, output=out) as command:
        command.wait_for_pieces(PIECES_BEFORE_THE_GATE)
        command.process.send_signal(signal.SIGTERM)
        told = command.end()
    gate.open()
    after = run([*arguments, "--resume"], settings, output=out)

    assert (1, f"{out}: there is an output already: --resume goes on with it\n") == (unasked.status, unasked.err)
    assert (130, "") == (told.status, told.out)
    assert ["interrupted: the same command with --resume goes on after what is done"] == said(told)
    assert (0, True) == (after.status, f"{len(case.urls)} rows = " in after.out), after
    assert_same(case.made, table_of(out))


def test_processes_that_die_are_others_work(case: Case, ray: Head, gate: Gate, tmp_path: Path) -> None:
    """Whoever decodes, encodes, or shares out the places of hosts: the run goes on by itself, to the same output."""
    out = tmp_path / "out"
    with started([*case.arguments, "--output", str(out)], SETTINGS | ray.settings, output=out) as command:
        command.wait_for_pieces(PIECES_BEFORE_THE_GATE)
        kill_decoder(ray.pid)
        for stage in ("MapBatches(EncodeImages)", "SharedHosts"):
            kill_actor(ray.pid, stage)
        gate.open()
        ended = command.end()

    assert 0 == ended.status, ended
    assert_same(case.made, table_of(out))


def test_machine_with_another_model_ends_the_run(case: Case, ray: Head, tmp_path: Path) -> None:
    """Its vectors would be among the others; nobody tries for ever, and the line says what is wrong there."""
    program = (
        "import os, sys; from dataclasses import replace; from bulk import __main__ as bulk;"
        " command = bulk._Command; known = command._model;"
        " command._model = lambda self: replace(known(self), fingerprint='2-0000000000000000');"
        " sys.exit(bulk.main(sys.argv[1:], os.environ))"
    )
    arguments = [*case.arguments, "--output", str(tmp_path / "out")]

    ended = run(arguments, SETTINGS | ray.settings, output=tmp_path / "out", program=["-c", program])

    [line] = ended.err.splitlines()
    fingerprint = next(iter(case.made.fingerprints))
    said = f"a machine has another model: its fingerprint is {fingerprint}, and the run's is 2-0000000000000000"
    assert (1, said) == (ended.status, line)


def test_another_model_is_refused(case: Case, ray: Head, tmp_path: Path) -> None:
    """Its vectors are not comparable with those that are there."""
    model = copytree(TINY_MODEL, tmp_path / "model")
    config = json.loads((model / "config.json").read_text("utf-8"))
    config["vision_config"]["layer_norm_eps"] = 1e-4
    (model / "config.json").write_text(json.dumps(config), "utf-8")
    settings = SETTINGS | ray.settings | {"CLIP_MODEL": str(model)}

    ended = run([*case.arguments, "--output", str(case.output), "--resume"], settings, output=case.output)

    [line] = ended.err.splitlines()
    assert 1 == ended.status
    assert line.startswith(f"the output's vectors have fingerprint {next(iter(case.made.fingerprints))} and this model")


def test_retry_when_the_host_is_back(case: Case, ray: Head, images: ImageServer, tmp_path: Path) -> None:
    """Rejects that could be retried become vectors, also where the first retry was killed; the others stay."""
    out = copytree(case.output, tmp_path / "out")
    settings = SETTINGS | ray.settings
    images.busy.remove("/bulk-busy.png")
    _, gate = images.add_gated("/bulk-busy.png", images.files["/bulk-busy.png"])
    try:
        with started(["retry", str(out)], settings, output=out) as command:
            gate.wait_for_request()
            command.process.kill()
            command.end()
        gate.open()
        ended = run(["retry", str(out)], settings, output=out)
    finally:
        gate.open()
        del images.gates["/bulk-busy.png"]
        images.busy.add("/bulk-busy.png")

    made = table_of(out)
    assert (0, True) == (ended.status, f"{len(case.urls)} rows = {ROWS + 3} vectors + 4 rejects" in ended.out), ended
    assert [identity for identity in case.urls if identity not in REJECTED or identity == "busy"] == made.ids
    assert case.made.rejects.keys() - {"busy"} == made.rejects.keys()
    kept = np.array([identity != "busy" for identity in made.ids])
    assert np.array_equal(case.made.vectors, made.vectors[kept])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """One that has room for a plan and not for the vectors."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not mounted(folder, "size=140k"):
        pytest.skip("a disk of its own needs root")
    try:
        yield folder
    finally:
        subprocess.run(["/bin/umount", str(folder)], check=True)


def mounted(folder: Path, options: str) -> bool:
    command = ["/bin/mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    return 0 == subprocess.run(command, capture_output=True).returncode


def test_full_disk(case: Case, ray: Head, small_disk: Path) -> None:
    """The run ends with one line; what is there is right, and the rest follows when there is room."""
    out = small_disk / "out"
    arguments, settings = [*case.arguments, "--output", str(out)], SETTINGS | ray.settings
    full = run(arguments, settings, output=out)
    assert mounted(small_disk, "remount,size=50m")
    after = run([*arguments, "--resume"], settings, output=out)

    assert (1, "") == (full.status, full.out)
    assert "No space left on device" in said(full)[-1]
    assert "Traceback" not in full.err
    assert 0 == after.status, after
    assert_same(case.made, table_of(out))


def test_through_the_client(case: Case, ray: Head, pod: PodProcess, tmp_path: Path) -> None:
    """A pod gives the same output as a model of one's own."""
    out = tmp_path / "out"
    settings = SETTINGS | ray.settings | pod_client(pod.base_url)
    ended = run([*case.arguments, "--output", str(out), "--through", "client"], settings, output=out)

    made = table_of(out)
    assert 0 == ended.status, ended
    assert case.made.ids == made.ids
    assert {name: code for name, (code, _) in case.made.rejects.items()} == {
        name: code for name, (code, _) in made.rejects.items()
    }
    assert case.made.fingerprints == made.fingerprints
    assert float(np.abs(case.made.vectors - made.vectors).max()) < TOLERANCE


def test_estimate_writes_nothing(case: Case, ray: Head, tmp_path: Path) -> None:
    """It says of all rows what a sample of them took."""
    out = tmp_path / "out"
    arguments = [*case.arguments, "--output", str(out), "--estimate", "20", "--price-per-hour", "2"]
    ended = run(arguments, SETTINGS | ray.settings, output=out)

    rows, vectors, cost = ended.out.splitlines()
    assert rows.startswith(f"{len(case.urls)} rows: about ")
    assert vectors.startswith("vectors: about ")
    assert cost.startswith("cost: about ")
    assert [] == list(out.rglob("*"))


def test_input_of_no_use_is_one_line(ray: Head, tmp_path: Path) -> None:
    """And there is no output; what else can be wrong with one is in test_inputs and test_plan."""
    (tmp_path / "rows.csv").write_text("key,text\n1,a\n1,b\n")
    out = tmp_path / "out"
    arguments = ["embed", "--input", str(tmp_path), "--text-column", "text", "--id-column", "key", "--output", str(out)]

    assert Ended(1, "", "the id 1 comes twice, in rows 0 and 1\n") == run(arguments, ray.settings, output=out)


def test_odd_paths_do_not_end_the_run(ray: Head, images: ImageServer, tmp_path: Path) -> None:
    """Each is its row's reject, and nobody is asked for one that is no file."""
    asked, gate = images.add_gated("/bulk-asked.png", encoded(natural(60, 40, 97), "PNG"))
    gate.open()
    (tmp_path / "a.png").write_bytes(encoded(natural(60, 40, 0), "PNG"))
    good = str(tmp_path / "a.png")
    paths = {
        "a": good,
        "b": "github://x",
        "c": "dir://x",
        "d": asked,
        "e": "hf://x",
        "f": (tmp_path / "a.png").as_uri(),
    }
    csv.write_csv(pa.table({"key": list(paths), "path": list(paths.values())}), tmp_path / "rows.csv")
    out = tmp_path / "out"
    arguments = ["embed", "--input", str(tmp_path / "rows.csv"), "--path-column", "path", "--id-column", "key"]
    ended = run([*arguments, "--output", str(out)], ray.settings, output=out)
    assert 0 == ended.status, ended
    made = table_of(out)

    assert ["a", "f"] == made.ids
    assert dict.fromkeys("bcde", ("FILE_UNREADABLE", False)) == made.rejects
    assert not gate.request_came()


def test_s3_to_s3(ray: Head, pod: PodProcess) -> None:
    """Rows of an object store to vectors there, by URIs that say where it is; texts as the service has them."""
    texts = ["a red circle", "a blue square", "a green triangle"]
    with s3() as (options, filesystem):
        with filesystem.open_output_stream("bucket/in/rows.csv") as stream:
            stream.write(("text\n" + "\n".join(texts) + "\n").encode())
        arguments = ["embed", "--input", f"s3://bucket/in/*.csv?{options}", "--output", f"s3://bucket/out?{options}"]
        ended = run(
            [*arguments, "--text-column", "text", "--dtype", "float16"], ray.settings | S3_KEYS, output=Path("-")
        )
        assert 0 == ended.status, ended
        made = parquet.read_table("bucket/out/vectors/part-00000.parquet", filesystem=filesystem)
        left = filesystem.get_file_info(fs.FileSelector("bucket/out/_bulk/pieces", allow_not_found=True))
    with ClipClient(ClientSettings.from_environ(pod_client(pod.base_url))) as client:
        expected = [one.vector for one in client.embed_texts(texts) if isinstance(one, Embedding)]

    assert [0, 1, 2] == made.column("id").to_pylist()
    assert pa.list_(pa.float16(), 512) == made.schema.field("vector").type
    vectors = np.array(made.column("vector").to_pylist(), np.float32)
    assert float(np.abs(np.array(expected) - vectors).max()) < 1e-3
    assert [] == [info for info in left if info.type == fs.FileType.File]
