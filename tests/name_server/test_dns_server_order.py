"""The order in which upstream servers are asked."""

from __future__ import annotations

from ipaddress import ip_address

from weave_dns.server_order import SILENT_S, ServerOrder

A, B, C = servers = [ip_address(f"192.0.2.{number}") for number in (1, 2, 3)]


def test_order_is_the_operators_and_each_server_is_there_once() -> None:
    assert ServerOrder().ranked([B, A, B, C], 0) == [B, A, C]


def test_silent_server_is_last_for_a_while() -> None:
    order = ServerOrder()
    assert order.kept_silent(A, 9, 10)
    assert order.ranked(servers, 10) == [B, C, A]
    assert order.ranked(servers, 10 + SILENT_S - 1) == [B, C, A]
    assert order.ranked(servers, 10 + SILENT_S) == [A, B, C]


def test_one_question_tries_it_and_others_do_not_wait_for_that() -> None:
    order = ServerOrder()
    order.kept_silent(A, 0, 0)
    assert order.ranked(servers, SILENT_S) == [A, B, C]
    assert order.ranked(servers, SILENT_S) == [B, C, A]
    assert order.ranked(servers, 2 * SILENT_S) == [A, B, C]


def test_server_that_answers_has_its_place_back() -> None:
    order = ServerOrder()
    order.kept_silent(A, 0, 1)
    order.heard(A, 2)
    assert order.ranked(servers, 2) == [A, B, C]
    assert order.ranked(servers, 2) == [A, B, C]


def test_all_silent_is_as_none_silent() -> None:
    order = ServerOrder()
    for server in (C, A, B):
        order.kept_silent(server, 0, 1)
    assert order.ranked(servers, 2) == [A, B, C]


def test_server_that_answered_others_meanwhile_is_not_silent() -> None:
    order = ServerOrder()
    order.heard(A, 5)
    assert not order.kept_silent(A, 5, 6)
    assert order.ranked(servers, 6) == [A, B, C]
    assert order.kept_silent(A, 5.1, 6.1)


def test_servers_that_are_gone_are_forgotten() -> None:
    order = ServerOrder()
    order.kept_silent(A, 0, 1)
    order.heard(B, 1)
    order.ranked([C], 2)
    assert (order._silent, order._heard) == ({}, {})
