"""int8 as it is baked and served: within the bound under the model's name, over it refused or under another name."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from core.clip.artifact import open_model
from core.clip.bake import Int8, bake, main
from core.clip.graph_files import GraphFiles
from core.clip.int8.speed import Gain
from core.clip.loading import LoadedModel, load_model
from core.clip.manifest import MANIFEST, Manifest
from core.errors import StartError
from core.images.decoding.rules import PIXEL_RULES_VERSION
from core.process import cpu
from core.settings import load_settings
from models.shapes import COLOURS, SHAPES
from tools.testbed.pictures import encoded, natural
from tools.testbed.process import TINY_MODEL

# Baking is many passes of both towers; a net, for a machine with other work.
pytestmark = pytest.mark.timeout(600)

PICTURES = 48
PLACES = ("on the left", "on the right", "at the top", "at the bottom", "in the middle")

# Of one input of a layer, while the norm before it is made smaller by as much: the same model, and what trained ones
# are known for.
OUTLIER = 500.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and texts of a user's own."""
    path: Path = tmp_path_factory.mktemp("mine")
    texts = (f"a {size} {colour} {form}" for size in ("small", "large") for colour in COLOURS for form in SHAPES)
    (path / "captions.txt").write_text("\n".join(f"{text} {place}" for text in texts for place in PLACES))
    for number in range(PICTURES):
        (path / f"{number}.png").write_bytes(encoded(natural(224, 224, number), "PNG"))
    return path


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """The bundled model, in int8 as well."""
    target: Path = tmp_path_factory.mktemp("baked") / "model"
    bake(str(TINY_MODEL), target, int8=Int8(folder))
    return target


@pytest.fixture(scope="module")
def with_outliers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, computed another way: one input of each layer of images is large, as in many a trained one."""
    target: Path = tmp_path_factory.mktemp("outliers") / "model"
    shutil.copytree(TINY_MODEL, target)
    weights = load_file(target / "model.safetensors")
    for number in range(4):
        layer = f"vision_model.encoder.layers.{number}"
        for norm, takers in (
            ("layer_norm1", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            ("layer_norm2", ("mlp.fc1",)),
        ):
            for name in ("weight", "bias"):
                weights[f"{layer}.{norm}.{name}"][7] /= OUTLIER
            for taker in takers:
                weights[f"{layer}.{taker}.weight"][:, 7] *= OUTLIER
    save_file(weights, target / "model.safetensors")
    return target


def manifest_of(directory: Path) -> Manifest:
    return Manifest.model_validate_json((directory / MANIFEST).read_bytes())


def load(model: Path, cache: Path, more: Mapping[str, str] | None = None) -> LoadedModel:
    environ = {"ALLOW_INSECURE_AUTH": "1", "CLIP_DEVICE": "cpu", "CLIP_MODEL": str(model), "CLIP_CACHE_DIR": str(cache)}
    return load_model(load_settings({**environ, **(more or {})}), pixel_rules=PIXEL_RULES_VERSION)


def test_manifest_says_what_int8_costs(baked: Path, folder: Path) -> None:
    """Judged on the other half of the folder, and within the bound that bfloat16 has."""
    report = manifest_of(baked).int8

    assert report is not None
    assert (PICTURES // 2, f"{PICTURES} images of {folder.name}, its texts") == (report.pictures, report.calibrated_on)
    for tower in report.towers.values():
        assert tower.accepted
        assert 0 < tower.error_mean <= tower.error_p99
        assert tower.error_mean <= report.max_error
        assert tower.int8_bytes < tower.float32_bytes
    assert 0.9 < report.top_10 <= 1


def test_int8_within_its_bound_has_the_fingerprint_of_the_model(baked: Path, tmp_path: Path) -> None:
    """Its vectors may lie beside those of float32."""
    exact = load(baked, tmp_path, {"CLIP_DTYPE": "float32"})
    rounded = load(baked, tmp_path, {"CLIP_DTYPE": "int8"})

    assert ["float32", "int8"] == [loaded.engines[0].dtype for loaded in (exact, rounded)]
    assert exact.fingerprint == rounded.fingerprint
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 224, 224), np.uint8)
    before, after = (loaded.engines[0].encode_images(pixels) for loaded in (exact, rounded))
    assert not np.array_equal(before, after)
    assert np.allclose(before, after, atol=0.1 * float(np.abs(before).max()))


def test_batch_has_no_say_in_a_vector(baked: Path, tmp_path: Path) -> None:
    """Scales are taken from each token alone."""
    [engine] = load(baked, tmp_path, {"CLIP_DTYPE": "int8"}).engines
    pixels = np.random.default_rng(1).integers(0, 256, (4, 3, 224, 224), np.uint8)
    pixels[1:] //= 16

    assert np.allclose(engine.encode_images(pixels)[:1], engine.encode_images(pixels[:1]), rtol=1e-3, atol=1e-3)


def test_same_folder_gives_the_same_bytes(baked: Path, folder: Path, tmp_path: Path) -> None:
    """All files but the manifest, which has the speeds that were measured."""
    again = bake(str(TINY_MODEL), tmp_path / "again", int8=Int8(folder))

    assert manifest_of(baked).files == again.files


@pytest.mark.parametrize(("gain", "dtype"), [(2.0, "int8"), (1.0, cpu.fastest_float())], ids=["faster", "no faster"])
def test_auto_takes_int8_only_where_it_is_faster(baked: Path, tmp_path: Path, gain: float, dtype: str) -> None:
    """What was measured on this machine before is not measured again."""
    fingerprint = manifest_of(baked).fingerprint
    files = GraphFiles.of(baked, tmp_path, fingerprint)
    files.compiled.mkdir(parents=True)
    Gain.record(files, cpu.fastest_float(), threads=cpu.available_cores()).remember(gain)

    loaded = load(baked, tmp_path)

    assert dtype == loaded.engines[0].dtype


def test_auto_measures_once(baked: Path, tmp_path: Path) -> None:
    """The first start on a machine; the figure is then in the cache."""
    load(baked, tmp_path)

    [record] = tmp_path.glob("*/int8-gain-*.json")
    assert json.loads(record.read_bytes())["gain"] > 0


def test_images_that_lose_too_much_are_refused(with_outliers: Path, folder: Path, tmp_path: Path) -> None:
    """What it says: how much, which layers are to blame, and at which bound it would pass."""
    with pytest.raises(StartError) as refused:
        bake(str(with_outliers), tmp_path / "target", int8=Int8(folder, max_error=0.001))

    said = str(refused.value)
    assert "int8 is refused: the vectors of images are off by" in said
    assert "allowed is 0.1%" in said
    assert "each alone: " in said
    assert "pass with --max-error 0." in said
    assert "under a fingerprint of their own" in said
    assert not list(tmp_path.iterdir())


def test_over_the_bound_vectors_have_another_fingerprint(with_outliers: Path, folder: Path, tmp_path: Path) -> None:
    """Allowed by hand; nobody can mix them with those of float32, and `auto` does not take it."""
    target = tmp_path / "target"
    manifest = bake(str(with_outliers), target, int8=Int8(folder, max_error=0.9))

    assert manifest.int8 is not None
    assert manifest.int8.towers["images"].error_mean > 0.025
    assert manifest.fingerprint != manifest.int8.fingerprint
    assert manifest.int8.fingerprint == load(target, tmp_path, {"CLIP_DTYPE": "int8"}).fingerprint
    automatic = load(target, tmp_path)
    assert (manifest.fingerprint, cpu.fastest_float()) == (automatic.fingerprint, automatic.engines[0].dtype)


def test_layers_to_blame_stay_in_floating_point(with_outliers: Path, folder: Path, tmp_path: Path) -> None:
    """Between the error of all layers and the bound lies a choice that is made by measurement."""
    manifest = bake(str(with_outliers), tmp_path / "target", int8=Int8(folder, max_error=0.02))

    assert manifest.int8 is not None
    tower = manifest.int8.towers["images"]
    assert 0 < len(tower.left_in_float) < tower.layers
    assert tower.error_mean <= 0.02


def test_int8_that_was_not_baked_is_asked_for_in_vain(tmp_path: Path) -> None:
    """No silent fallback to another numeric type."""
    with pytest.raises(StartError, match="int8 needs a model that was baked with --int8"):
        load(TINY_MODEL, tmp_path, {"CLIP_DTYPE": "int8"})


def test_torch_has_no_int8(tmp_path: Path) -> None:
    """It is OpenVINO's alone."""
    with pytest.raises(StartError, match="int8 is for CPUs and CLIP_ENGINE=openvino"):
        load(TINY_MODEL, tmp_path, {"CLIP_DTYPE": "int8", "CLIP_ENGINE": "torch"})


def test_damaged_graph_is_noticed_at_the_start(baked: Path, tmp_path: Path) -> None:
    """The manifest covers it like every other file."""
    spoilt = Path(shutil.copytree(baked, tmp_path / "spoilt"))
    [graph] = spoilt.glob("*/int8/images.xml")
    graph.write_text(graph.read_text() + " ")

    with pytest.raises(StartError, match="the checksum of"):
        open_model(str(spoilt))


def test_calibrate_without_int8_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An option that nobody reads would be taken for one that works."""
    with pytest.raises(SystemExit):
        main([str(TINY_MODEL), str(tmp_path / "target"), "--calibrate", str(tmp_path)])

    assert "--calibrate is for --int8" in capsys.readouterr().err
