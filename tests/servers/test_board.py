"""Who draws which shard, without any server."""

import pytest

from hierdiff_core.servers.board import Board


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def board_of(count, servers, clock, **options):
    return Board(count, set(servers), clock=clock, **options)


def test_each_shard_goes_to_one_server_and_ends_once(clock):
    board = board_of(3, "ab", clock)
    assert [board.take("a"), board.take("b"), board.take("a")] == [1, 2, 3]
    assert board.take("b") is None
    assert board.finish(1, "a")
    assert not board.over
    assert board.finish(2, "b")
    assert board.finish(3, "a")
    assert board.over
    assert board.lost() == {}


def test_what_was_done_before_is_not_drawn_again(clock):
    board = board_of(3, "a", clock, done={1, 3})
    assert board.take("a") == 2
    assert board.finish(2, "a")
    assert board.over


def test_a_dead_servers_shards_go_to_the_others(clock):
    board = board_of(2, "ab", clock)
    assert (board.take("a"), board.take("b")) == (1, 2)
    board.drop("a")
    assert board.take("a") is None
    assert board.take("b") == 1
    board.drop("b")
    assert board.over
    assert set(board.lost()) == {1, 2}


def test_a_shard_that_fails_is_tried_on_each_server_once(clock):
    board = board_of(2, "ab", clock)
    assert board.take("a") == 1
    assert board.finish(1, "a")
    assert board.take("a") == 2
    assert board.fail(2, "a", "out of memory") == ""
    assert board.take("a") is None
    assert not board.over
    assert board.take("b") == 2
    assert board.fail(2, "b", "a bad prompt") == ""
    assert board.over
    assert board.lost() == {2: "out of memory; a bad prompt"}


def test_a_workflow_that_fails_everywhere_is_given_up(clock):
    board = board_of(9, "ab", clock)
    assert (board.take("a"), board.take("b")) == (1, 2)
    assert board.fail(1, "a", "no such prompt") == ""
    assert "no shard could be drawn: no such prompt" in board.fail(2, "b", "no such prompt")
    assert board.over
    assert board.take("a") is None


def test_a_server_that_only_fails_is_given_up_while_others_draw(clock):
    board = board_of(9, "ab", clock)
    assert board.finish(board.take("a"), "a")
    said = [board.fail(board.take("b"), "b", "out of memory") for _ in range(3)]
    assert said == ["", "", "it has failed 3 times in a row"]
    assert board.take("b") is None
    for _ in range(8):
        assert board.finish(board.take("a"), "a")
    assert board.over
    assert board.lost() == {}


def test_what_is_far_too_slow_is_given_to_a_second_server_and_counts_once(clock):
    board = board_of(3, "abc", clock, slow=3.0)
    assert (board.take("a"), board.take("b"), board.take("c")) == (1, 2, 3)
    clock.now = 20.0
    assert board.finish(1, "a")
    assert board.finish(2, "b")
    clock.now = 59.0
    assert board.take("a") is None  # not yet three times as long
    clock.now = 61.0
    assert board.take("a") == 3
    assert board.take("b") is None  # two are enough
    assert board.finish(3, "a")
    assert board.is_done(3)
    assert not board.finish(3, "c")
    assert board.over


def test_seconds_are_waited_for_before_anybody_is_slow(clock):
    """Shards of a tenth of a second differ by more than three times."""
    board = board_of(2, "ab", clock)
    assert (board.take("a"), board.take("b")) == (1, 2)
    clock.now = 0.1
    assert board.finish(1, "a")
    clock.now = 10.0
    assert board.take("a") is None
