"""What a model wants done to pixels is done or refused, never passed over."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPImageProcessor

from core.clip.artifact import open_model
from core.clip.preprocessing import Preprocessing
from core.errors import StartError
from tools.testbed.process import TINY_MODEL

SIZE_PX = 224
CONFIG = json.loads((TINY_MODEL / "preprocessor_config.json").read_bytes())

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=10,
)


def test_defaults_are_those_of_transformers() -> None:
    """A file that leaves them out means CLIP's own."""
    theirs, ours = CLIPImageProcessor(), Preprocessing.of({}, SIZE_PX)

    assert (tuple(theirs.image_mean), tuple(theirs.image_std)) == (ours.image_mean, ours.image_std)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(CONFIG, id="the bundled model's"),
        pytest.param({"size": 224, "crop_size": 224, "feature_extractor_type": "CLIPFeatureExtractor"}, id="old"),
        pytest.param({**CONFIG, "image_processor_type": "CLIPImageProcessorFast", "use_fast": True}, id="fast"),
        pytest.param({**CONFIG, "image_processor_type": None, "do_pad": None}, id="null for nothing"),
        pytest.param({**CONFIG, "do_pad": False, "pad_size": None}, id="a switch that is off"),
    ],
)
def test_what_is_done_here_is_taken(config: dict[str, Any]) -> None:
    """In each of the forms that files have."""
    assert CONFIG["image_mean"] == list(Preprocessing.of(config, SIZE_PX).image_mean)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"resample": 2}, r"resample is 2: supported is 3 \(bicubic\)", id="bilinear"),
        pytest.param({"do_center_crop": False}, "do_center_crop is False: supported is true", id="no crop"),
        pytest.param({"do_center_crop": None}, "do_center_crop is None", id="null, which crops nothing"),
        pytest.param({"resample": None}, "resample is None", id="null, which resizes in another way"),
        pytest.param({"image_mean": None}, "image_mean is None", id="null for a mean"),
        pytest.param({"do_resize": False}, "do_resize is False", id="no resize"),
        pytest.param({"do_normalize": False}, "do_normalize is False", id="no normalisation"),
        pytest.param({"do_rescale": False}, "do_rescale is False", id="no scale"),
        pytest.param({"do_convert_rgb": False}, "do_convert_rgb is False", id="no RGB"),
        pytest.param({"rescale_factor": 1 / 127.5}, "rescale_factor is 0.0078.*1/255", id="another scale"),
        pytest.param({"size": {"height": 224, "width": 224}}, "size is {'height': 224", id="squeezed"),
        pytest.param({"size": {"shortest_edge": 256}}, "size is .*256.*config.json, 224", id="resized larger"),
        pytest.param({"crop_size": 200}, "crop_size is 200: .*config.json, 224", id="another crop"),
        pytest.param({"crop_size": {"height": 224, "width": 200}}, "crop_size is", id="no square"),
        pytest.param({"image_processor_type": "ViTImageProcessor"}, "image_processor_type is 'ViT", id="another one"),
        pytest.param({"do_pad": True}, "do_pad is True: that is not supported", id="padding"),
        pytest.param({"use_square_size": True}, "use_square_size is True", id="square"),
        pytest.param({"auto_map": {"AutoImageProcessor": "x.Y"}}, "auto_map is", id="code of its own"),
        pytest.param({"image_mean": [0.5, 0.5]}, "image_mean", id="two channels"),
        pytest.param({"image_std": [0.5, 0.0, 0.5]}, "image_std.1 is 0.0", id="no deviation"),
        pytest.param({"image_mean": [0.5, float("nan"), 0.5]}, "image_mean.1 is nan", id="no number"),
    ],
)
def test_what_is_not_done_here_is_refused_by_name(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    """Vectors of other pixels look right and are not the model's."""
    model = Path(shutil.copytree(TINY_MODEL, tmp_path / "model"))
    (model / "preprocessor_config.json").write_text(json.dumps({**CONFIG, **change}))

    with pytest.raises(StartError, match=rf"\ACLIP_MODEL: .*preprocessor_config\.json: [^\n]*{words}"):
        open_model(str(model))


def test_default_size_is_refused_for_another_model() -> None:
    """A model of 336 pixels whose file leaves the size out would be given 224 by transformers."""
    with pytest.raises(ValueError, match=r"size is 224: supported is the image_size of config\.json, 336"):
        Preprocessing.of({}, 336)


@given(_JSON | st.dictionaries(st.sampled_from(sorted(CONFIG)), _JSON))
def test_any_json_is_taken_or_an_error(config: Any) -> None:  # noqa: ANN401 - any JSON
    """Whatever a file says, a start ends in a line and not in a traceback."""
    with suppress(ValueError):
        assert min(Preprocessing.of(config, SIZE_PX).image_std) > 0
