"""Work on threads: in order, and no further ahead than asked."""

import threading
from concurrent.futures import ThreadPoolExecutor

from thaw.progress import in_order


def test_results_come_in_order_and_few_are_made_ahead() -> None:
    begun = []
    with ThreadPoolExecutor(4) as pool:
        found = in_order(pool, lambda item: begun.append(item) or item**2, iter(range(50)), ahead=5)
        for place, result in enumerate(found):
            assert result == place**2
            assert len(begun) <= place + 6
    assert sorted(begun) == list(range(50))


def test_work_goes_on_while_a_result_is_looked_at() -> None:
    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        found = in_order(pool, lambda item: done.set() if item == 2 else None, range(3), ahead=2)
        next(found)
        assert done.wait(10)
