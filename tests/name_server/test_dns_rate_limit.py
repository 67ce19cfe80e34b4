"""How many answers a client gets per second."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from weave_dns.rate_limit import MOST_CLIENTS, RateLimit


def test_client_gets_so_many_answers_in_a_second_and_as_many_in_the_next() -> None:
    limit = RateLimit(3)
    for second in (10, 11, 20):
        answered = [limit.allows("a", second + part / 10) for part in range(10)]
        assert answered == [True] * 3 + [False] * 7


def test_clients_do_not_take_from_each_other() -> None:
    limit = RateLimit(2)
    assert [limit.allows("a", 5.0) for _ in range(5)].count(True) == 2
    assert [limit.allows("b", 5.0) for _ in range(5)].count(True) == 2


def test_no_limit() -> None:
    limit = RateLimit(0)
    assert all(limit.allows("a", 5.0) for _ in range(50_000))


def test_first_second_of_the_clock_counts_too() -> None:
    limit = RateLimit(1)
    assert [limit.allows("a", 0.0), limit.allows("a", 0.9), limit.allows("a", 1.0)] == [True, False, True]


def test_a_flood_of_addresses_costs_bounded_memory_and_those_known_are_served() -> None:
    limit = RateLimit(2)
    assert limit.allows("known", 5.0)
    allowed = sum(limit.allows(f"client {number}", 5.0) for number in range(3 * MOST_CLIENTS))
    assert allowed == MOST_CLIENTS - 1
    assert len(limit._counts) == MOST_CLIENTS
    assert limit.allows("known", 5.5)
    assert limit.allows("late", 6.0)


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 5)), max_size=80).map(
        lambda asked: sorted(asked, key=lambda a: a[1])
    ),
)
def test_nobody_gets_more_than_the_rate_nor_less_if_he_asks(rate: int, asked: list[tuple[str, float]]) -> None:
    limit = RateLimit(rate)
    allowed: Counter[tuple[str, int]] = Counter()
    wanted: Counter[tuple[str, int]] = Counter()
    for client, now in asked:
        wanted[client, int(now)] += 1
        allowed[client, int(now)] += limit.allows(client, now)
    assert allowed == Counter({key: min(count, rate) for key, count in wanted.items()})
