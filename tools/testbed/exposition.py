"""What a running pod says of itself at `/metrics`."""

import requests
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

_TIMEOUT_S = 60.0


def samples(base_url: str) -> list[Sample]:
    """All of them, in the page's order."""
    answer = requests.get(base_url + "/metrics", timeout=_TIMEOUT_S)
    answer.raise_for_status()
    return [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
