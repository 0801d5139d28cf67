"""CLIP behind LitServe, as its documentation shows it: `python -m bench.peers.litserve_clip MODEL PORT`."""

import io
import sys
from typing import Any

import litserve
import requests
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

_MAX_BATCH = 32
_BATCH_TIMEOUT_S = 0.01


class ClipApi(litserve.LitAPI):  # type: ignore[misc]
    """`{"image_url": …}` or `{"text": …}` to `{"embedding": […]}`, normalised."""

    def __init__(self, model: str) -> None:
        super().__init__(max_batch_size=_MAX_BATCH, batch_timeout=_BATCH_TIMEOUT_S)
        self._path = model

    def setup(self, device: str) -> None:
        self._processor = CLIPProcessor.from_pretrained(self._path)
        self._model = CLIPModel.from_pretrained(self._path).train(False)
        self._session = requests.Session()

    def decode_request(self, request: dict[str, Any]) -> Image.Image | str:
        if "text" in request:
            return str(request["text"])
        answer = self._session.get(request["image_url"], timeout=30)
        answer.raise_for_status()
        return Image.open(io.BytesIO(answer.content)).convert("RGB")

    def predict(self, batch: list[Image.Image | str]) -> list[torch.Tensor]:
        found: dict[int, torch.Tensor] = {}
        with torch.inference_mode():
            for kind in (str, Image.Image):
                places = [place for place, one in enumerate(batch) if isinstance(one, kind)]
                if places:
                    rows = self._embed([batch[place] for place in places], texts=kind is str)
                    found.update(zip(places, rows, strict=True))
        return [found[place] for place in range(len(batch))]

    def _embed(self, batch: list[Any], *, texts: bool) -> torch.Tensor:
        if texts:
            inputs = self._processor(text=batch, return_tensors="pt", padding=True, truncation=True)
            rows = self._model.get_text_features(**inputs).pooler_output
        else:
            rows = self._model.get_image_features(**self._processor(images=batch, return_tensors="pt")).pooler_output
        return torch.nn.functional.normalize(rows)

    def encode_response(self, output: torch.Tensor) -> dict[str, Any]:
        return {"embedding": output.tolist()}


def main() -> None:
    model, port = sys.argv[1:]
    server = litserve.LitServer(ClipApi(model), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False)


if __name__ == "__main__":
    main()
