"""A client that asks at a pace of its own, as people do, however fast the answers come."""

import time
from contextlib import closing

from bench.pod import connection
from bench.work import Work


def ask_at_pace(base_url: str, work: Work, *, every_s: float, seconds: float, first_number: int = 0) -> list[float]:
    """Milliseconds of each answer that was a success. Who waits for an answer is late, and asks at once then."""
    taken_ms, number = list[float](), first_number
    next_s = time.monotonic()
    until_s = next_s + seconds
    with closing(connection(base_url)) as asking:
        while next_s < until_s:
            request, number = work.request(number), number + 1
            started_s = time.perf_counter()
            asking.request("POST", request.path, request.body)
            answer = asking.getresponse()
            answer.read()
            if answer.status == 200:
                taken_ms.append((time.perf_counter() - started_s) * 1000)
            next_s += every_s
            time.sleep(max(0.0, next_s - time.monotonic()))
    return taken_ms
