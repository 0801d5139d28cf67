"""What a model wants done to pixels, from its preprocessor_config.json: honoured, or refused by name.

Names and defaults are those of transformers' CLIPImageProcessor. Mean and deviation are honoured. All else has to be
what `core.images` does: RGB, shortest side to the model's size with bicubic, centre crop, values from 0 to 1.
"""

from collections.abc import Mapping
from math import isclose
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

Finite = Annotated[float, Field(allow_inf_nan=False)]
Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_SWITCHES = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
_BICUBIC = 3  # Pillow's number
_RESCALE_FACTOR = 1 / 255
_DEFAULT_SIZE_PX = 224
_PROCESSORS = ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor")

_HONOURED = ("image_mean", "image_std")
_OF_NO_CONSEQUENCE = frozenset({
    "processor_class", "_processor_class", "_valid_processor_keys", "model_input_names", "transformers_version",
    "return_tensors", "data_format", "input_data_format", "device", "disable_grouping", "use_fast",
})  # fmt: skip


class Preprocessing(BaseModel):
    """Per RGB channel, in units of 0..1."""

    model_config = ConfigDict(frozen=True)

    image_mean: tuple[Finite, Finite, Finite] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[Deviation, Deviation, Deviation] = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def of(cls, config: Any, size_px: int) -> Self:  # noqa: ANN401 - straight from JSON
        """Read a configuration for a model of `size_px`. What is left out has its default, and null switches it off.

        Raises `ValueError` that names the first thing in it which is not done here.
        """
        if not isinstance(config, Mapping):
            raise ValueError("it is not an object")  # noqa: TRY004 - what is wrong is a value in a file
        # The sizes have a default that other models must contradict.
        for name, value in {"size": _DEFAULT_SIZE_PX, "crop_size": _DEFAULT_SIZE_PX, **config}.items():
            if name not in _HONOURED and not _is_done(name, value, size_px):
                raise ValueError(f"{name} is {value!r}: {_supported(name, size_px)}")
        return cls.model_validate({name: config[name] for name in _HONOURED if name in config})


def _is_done(name: str, value: object, size_px: int) -> bool:
    """Whether our pixels are what `value` asks for."""
    if name in _OF_NO_CONSEQUENCE:
        return True
    match name:
        case "size":
            return value in (size_px, {"shortest_edge": size_px})
        case "crop_size":
            return value in (size_px, {"height": size_px, "width": size_px})
        case "resample":
            return value == _BICUBIC
        case "rescale_factor":
            return isinstance(value, float) and isclose(value, _RESCALE_FACTOR, rel_tol=1e-6)
        case "image_processor_type" | "feature_extractor_type":
            return value in (None, *_PROCESSORS)
    # What nobody here knows asks for nothing while it is off.
    return value is True if name in _SWITCHES else value is None or value is False


def _supported(name: str, size_px: int) -> str:
    match name:
        case "size" | "crop_size":
            return f"supported is the image_size of config.json, {size_px}, as shortest edge and square crop"
        case "resample":
            return f"supported is {_BICUBIC} (bicubic)"
        case "rescale_factor":
            return "supported is 1/255"
        case "image_processor_type" | "feature_extractor_type":
            return f"supported is {_PROCESSORS[0]}"
    return "supported is true" if name in _SWITCHES else "that is not supported"
