"""The machines: how a run is spread over them, and that a cluster that is away is said at once."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bulk.cluster import Machines, cluster, object_store_bytes, sizes
from bulk.errors import BulkError
from tools.testbed.loopback import kept_port


@given(st.integers(1, 50), st.integers(2, 64), st.integers(0, 8))
def test_what_is_planned_is_there(nodes: int, cpus: int, gpus: int) -> None:
    """No stage waits for processors or GPUs that the machines do not have, and each has at least one process.

    One of each machine's processors is left, which Ray needs for the plan on one of them, and a little more: what
    writes must not wait until the plan has been taken apart.
    """
    machines = Machines(nodes, float(nodes * cpus), float(nodes * gpus))
    assume(cpus - gpus > 1)

    made = sizes(machines, encoders=None, decoders=None)

    taken = made.encoders / nodes * made.encoder_cpus + made.decoders / nodes * made.decoder_cpus
    assert taken <= cpus - 1.1 + 1e-9
    assert made.decoders % nodes == made.encoders % nodes == 0
    assert made.encoders * made.encoder_gpus <= machines.gpus
    assert min(made.encoders, made.decoders, made.decoder_processes) >= 1
    assert made.encoders == (machines.gpus or nodes)


@given(st.integers(2, 64), st.integers(1, 8))
def test_every_processor_of_a_machine_with_gpus_decodes(cpus: int, gpus: int) -> None:
    """But for one per GPU: what is counted for the plan hardly uses its processor, and a GPU is fed by the others."""
    assume(cpus - gpus > 1)

    made = sizes(Machines(1, float(cpus), float(gpus)), encoders=None, decoders=None)

    free = cpus - gpus
    assert free - made.decoders < made.decoders * made.decoder_processes <= free


@pytest.mark.parametrize(
    ("cores", "shared_memory_gb", "expected_gb"),
    [
        pytest.param(2, 64, 1.5, id="two cores"),
        pytest.param(16, 64, 4.0, id="sixteen cores"),
        pytest.param(16, 3, 2.7, id="little shared memory"),
        pytest.param(16, 0, 1.5, id="none"),
    ],
)
def test_more_cores_have_more_pieces_on_their_way(cores: int, shared_memory_gb: int, expected_gb: float) -> None:
    """Otherwise they wait for each other; but where shared memory is short, Ray would use a disk."""
    assert expected_gb * 1e9 == pytest.approx(object_store_bytes(cores, shared_memory_gb * 1_000_000_000))


def test_what_was_asked_for_is_taken() -> None:
    """Whoever knows the machines better says how many processes there are."""
    made = sizes(Machines(2, 16.0, 0.0), encoders=3, decoders=5)

    assert (3, 5) == (made.encoders, made.decoders)


@pytest.mark.parametrize(
    "machines",
    [
        pytest.param(Machines(1, 1.0, 0.0), id="one processor"),
        pytest.param(Machines(4, 4.0, 0.0), id="one processor each"),
        pytest.param(Machines(1, 4.0, 4.0), id="GPUs alone"),
    ],
)
def test_too_few_processors(machines: Machines) -> None:
    """Said at once: such a run would wait for ever."""
    with pytest.raises(BulkError, match="a processor for each GPU and two more on each machine"):
        sizes(machines, encoders=None, decoders=None)


@pytest.mark.parametrize("scheme", [pytest.param("", id="address"), pytest.param("ray://", id="client")])
def test_cluster_that_is_away(scheme: str) -> None:
    """Ray would ask there for minutes; the line names the variable."""
    with (
        kept_port() as port,
        pytest.raises(BulkError, match=f"^RAY_ADDRESS: {scheme}127.0.0.1:{port}: Connection refused$"),
        cluster({"RAY_ADDRESS": f"{scheme}127.0.0.1:{port}"}),
    ):
        pytest.fail("there is no such cluster")
