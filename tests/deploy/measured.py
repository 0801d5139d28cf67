"""What expressions may ask for: the metrics of the service with their labels, and what Prometheus itself adds."""

from collections.abc import Iterable, Iterator, Mapping

from core.metrics import GONE, METRICS, OK, Kind, Metric
from tests.core.test_errors import leaves
from tools.promql import Use

# Of every series that is scraped.
SCRAPED = frozenset({"job", "instance"})
# Series that Prometheus makes by itself.
OF_PROMETHEUS: Mapping[str, frozenset[str]] = {"up": SCRAPED}


def series_of(metric: Metric) -> Iterator[tuple[str, frozenset[str]]]:
    """The names under which it stands in `/metrics`, each with its labels."""
    labels = frozenset(metric.labels)
    if metric.kind is not Kind.HISTOGRAM:
        yield metric.name, labels
        return
    yield f"{metric.name}_bucket", labels | {"le"}
    yield f"{metric.name}_sum", labels
    yield f"{metric.name}_count", labels


def known() -> dict[str, frozenset[str]]:
    """Labels by name, of all that can be asked for."""
    of_service = {name: labels | SCRAPED for metric in METRICS for name, labels in series_of(metric)}
    return {**of_service, **OF_PROMETHEUS}


def strange(uses: Iterable[Use], names: Mapping[str, frozenset[str]]) -> list[Use]:
    """Those of metrics or labels that there are none of, or of codes that no answer has."""
    codes = {leaf.code for leaf in leaves()} | {OK, GONE}
    return [use for use in uses if not use.labels <= names.get(use.metric, frozenset()) or _codes(use) - codes]


def _codes(use: Use) -> set[str]:
    return {value for label, value in use.chosen if label == "code"}
