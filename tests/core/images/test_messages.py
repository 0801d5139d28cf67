"""The protocol between the service and an image process: whatever comes, it is a message or it is refused."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import errors
from core.images.messages import DescriptorInbox, Garbled, Inbox, Report, describe, frame

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
MESSAGES = st.lists(JSON, min_size=1, max_size=5)

# What an image can end with in an image process.
IMAGE_ERRORS = [
    errors.UrlNotAllowed(),
    errors.DownloadError("the image's server answered 503", retryable=True),
    errors.DownloadError(retryable=False),
    errors.DownloadTimeout(),
    errors.ImageTooLarge("the image has more than 5 pixels"),
    errors.InvalidImage(),
    errors.Overloaded(),
    errors.DeadlineExceeded(),
    errors.InternalError(),
]


def framed(payload: bytes) -> bytes:
    """Any payload with its right length."""
    return len(payload).to_bytes(4, "little") + payload


@contextmanager
def inbox_of(data: bytes) -> Iterator[Inbox]:
    """The inbox of whoever is sent `data`, and then the end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        yield Inbox(ours)


def received(inbox: Inbox) -> list[object]:
    """Everything up to the end."""
    messages: list[object] = []
    try:
        while True:
            messages.extend(inbox.receive())
    except EOFError:
        return messages


def test_descriptors_come_in_the_order_of_their_messages() -> None:
    """Each is there when its message is, however many of both are read at once."""
    ours, theirs = socket.socketpair()
    files = [os.memfd_create(str(number)) for number in range(3)]
    with ours, theirs:
        inbox = DescriptorInbox(ours)
        found: list[object] = []
        for number, file in enumerate(files):
            os.write(file, str(number).encode())
            theirs.sendall(frame(["no file"]))
            socket.send_fds(theirs, [frame(["file", number])], [file])
            os.close(file)
        while len(found) < len(files):
            found += [message[1] for message in inbox.receive() if message[0] == "file"]
    contents = []
    for descriptor in inbox.descriptors:
        contents.append(os.pread(descriptor, 9, 0))
        os.close(descriptor)

    assert [0, 1, 2] == found
    assert [b"0", b"1", b"2"] == contents


def test_service_takes_no_descriptor() -> None:
    """An image process may have been taken over: what it sends beside its words is dropped."""
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.NamedTemporaryFile() as file:
        socket.send_fds(theirs, [frame(["file"])], [file.fileno()] * 10)

        assert [["file"]] == list(Inbox(ours).receive())
        own = [name for name in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{name}") == file.name]
        assert [str(file.fileno())] == own


@given(st.lists(MESSAGES, max_size=5), st.data())
def test_messages_arrive_as_they_were_sent(messages: list[list[object]], data: st.DataObject) -> None:
    """All of them, in order, however the stream is cut into pieces."""
    stream = b"".join(frame(message) for message in messages)
    cut = data.draw(st.integers(0, len(stream)))
    ours, theirs = socket.socketpair()
    found: list[object] = []
    with ours, theirs:
        inbox = Inbox(ours)
        for piece in filter(None, (stream[:cut], stream[cut:])):
            theirs.sendall(piece)
            found.extend(inbox.receive())

    assert [orjson.loads(orjson.dumps(message)) for message in messages] == found


@given(st.binary(max_size=200) | st.binary(max_size=50).map(framed) | MESSAGES.map(lambda message: frame(message)[:-1]))
def test_any_bytes_are_messages_or_refused(data: bytes) -> None:
    """Nothing else than lists that say something comes out, and nothing else than `Garbled` is raised."""
    with inbox_of(data) as inbox:
        try:
            messages = received(inbox)
        except Garbled:
            return

    assert all(isinstance(message, list) and message for message in messages)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff\xff\xff\x7f", id="a length of gigabytes"),
        pytest.param(framed(b"{}"), id="no list"),
        pytest.param(framed(b"[]"), id="nothing said"),
        pytest.param(framed(b"[NaN]"), id="no JSON"),
    ],
)
def test_garbled(data: bytes) -> None:
    """What no image process would say is told from what is still on its way."""
    with inbox_of(data) as inbox, pytest.raises(Garbled):
        received(inbox)


@given(JSON | st.lists(JSON, min_size=3, max_size=6) | st.tuples(st.integers(), st.text(), st.text(), st.booleans()))
def test_any_value_is_a_report_or_refused(value: object) -> None:
    """Nothing else is raised, and an error that comes out is one that an image can have."""
    try:
        report = Report.parse(orjson.loads(orjson.dumps(value)))
    except (Garbled, orjson.JSONEncodeError):
        return

    assert isinstance(report.job_id, int)
    assert report.error is None or type(report.error) in {type(error) for error in IMAGE_ERRORS}


@pytest.mark.parametrize(
    "error", [pytest.param(error, id=f"{type(error).__name__}-{error.retryable}") for error in IMAGE_ERRORS]
)
def test_error_comes_back_as_it_was(error: errors.ServiceError) -> None:
    """Kind, message and whether a retry may help."""
    back = Report.parse([7, *describe(error)]).error

    assert back is not None
    assert (type(error), error.message, error.retryable) == (type(back), back.message, back.retryable)


@pytest.mark.parametrize(
    "report",
    [
        pytest.param([1, "INVALID_IMAGE", "two\nlines", False], id="a message of several lines"),
        pytest.param([1, "AUTH_FAILED", "no", False], id="an error that no image has"),
        pytest.param([1, 1, 2, 3, 4, ""], id="times that are no floats"),
        pytest.param([1, 1.0, 2.0, 3.0, 4.0], id="no hash"),
        pytest.param([1, 1.0, 2.0, 3.0, 4.0, "0" * 63], id="a short hash"),
        pytest.param([1, 1.0, 2.0, 3.0, 4.0, "A" * 64], id="a hash in capitals"),
        pytest.param([1, 1.0, 2.0, 3.0, 4.0, "0" * 64 + "\n"], id="a hash and more"),
        pytest.param([1], id="too short"),
    ],
)
def test_report_that_no_image_process_makes(report: list[object]) -> None:
    """A process that was taken over puts no line into a log, and no error of its choice into an answer."""
    with pytest.raises(Garbled):
        Report.parse(report)


def test_long_message_is_cut() -> None:
    """It goes to a stranger, and may be from one."""
    error = Report.parse([1, "INVALID_IMAGE", "x" * 1000, False]).error

    assert error is not None
    assert 200 == len(error.message)
