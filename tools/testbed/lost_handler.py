"""The serverless handler, with a device that is lost at the first text after the file LOSE_AT is there."""

import logging.config
import os
from dataclasses import replace
from pathlib import Path

from core.clip.engine import Engine, EngineBroken, Pixels, TokenIds, Vectors
from core.clip.loading import load_model
from core.images.decoding.rules import PIXEL_RULES_VERSION
from core.process.logs import logging_config
from core.runtime import Runtime
from core.service import Service
from serverless.auth import build_authenticator
from serverless.handler import serve
from serverless.settings import HandlerSettings, load_handler_settings


class LosesItself:
    """`engine`, until it is `told`."""

    def __init__(self, engine: Engine, told: Path) -> None:
        self.name, self.device, self.dtype = engine.name, engine.device, engine.dtype
        self.out_of_memory = engine.out_of_memory
        self._engine = engine
        self._told = told

    def prepare_thread(self) -> None:
        self._engine.prepare_thread()

    def encode_images(self, pixels: Pixels) -> Vectors:
        return self._engine.encode_images(pixels)

    def encode_texts(self, token_ids: TokenIds) -> Vectors:
        if self._told.exists():
            raise EngineBroken("as it was told")
        return self._engine.encode_texts(token_ids)


def _load(settings: HandlerSettings) -> Runtime:
    model = load_model(settings, pixel_rules=PIXEL_RULES_VERSION)
    engines = [LosesItself(engine, Path(os.environ["LOSE_AT"])) for engine in model.engines]
    return Runtime(settings, build_authenticator(settings), replace(model, engines=engines))


def main() -> None:
    """As `serverless.handler`, around another model."""
    settings = load_handler_settings(os.environ)
    logging.config.dictConfig(logging_config(settings.log_level))
    service = Service(settings, lambda: _load(settings))
    service.load()
    serve(settings, service)


if __name__ == "__main__":
    main()
