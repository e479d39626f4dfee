"""Tokens and bounds, the pure part of reads with a contract. They mirror the tests of the Rust SDK."""

from __future__ import annotations

import pickle
from zlib import crc32

import pytest

from ringbeam import Consistency
from ringbeam._consistency import Bounded, Marks, Token, checked, fresh

TOKEN = Token(0xABCD, {3: 1 << 40, 0: 7})


def test_a_token_survives_its_bytes() -> None:
    assert Token.from_bytes(TOKEN.to_bytes()) == TOKEN
    assert Token.from_bytes(Token().to_bytes()) == Token()
    assert pickle.loads(pickle.dumps(TOKEN)) == TOKEN
    assert len(TOKEN.to_bytes()) == 15 + 2 * 10


def test_the_bytes_are_those_of_every_sdk() -> None:
    """What the Rust SDK makes of the same token."""
    body = bytes.fromhex("01 cdab000000000000 0200 0000 0700000000000000 0300 0000000000010000")
    assert TOKEN.to_bytes() == body + crc32(body).to_bytes(4, "little")


def test_bytes_that_are_no_token_are_refused() -> None:
    good = TOKEN.to_bytes()
    for at in range(len(good)):
        changed = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        for bad in (changed, good[:at]):
            with pytest.raises(ValueError, match="no session token"):
                Token.from_bytes(bad)
    with pytest.raises(ValueError, match="0 bytes"):
        Token.from_bytes(b"")
    # A good checksum does not make it one.
    for body, says in [
        (b"\x02" * 11, "version 2; known is 1"),
        (b"\x01" * 9 + b"\x09\x00" + bytes(10), "9 shards in 10 bytes"),
        (b"\x01" * 9 + b"\x02\x00" + b"\x01" * 20, "shard 257 is beyond the last possible, 255"),
        (b"\x01" * 9 + b"\x02\x00" + bytes(20), "or there twice"),
    ]:
        with pytest.raises(ValueError, match=says):
            Token.from_bytes(body + crc32(body).to_bytes(4, "little"))


def test_tokens_join_to_the_later_of_each_shard() -> None:
    joined = TOKEN.join(Token(0xABCD, {0: 9, 3: 1, 4: 4}))
    assert [joined.index_of(shard) for shard in (0, 3, 4, 5)] == [9, 1 << 40, 4, 0]
    with pytest.raises(ValueError, match="a token of ring abcd and one of ring 7"):
        TOKEN.join(Token(7))


def test_marks_only_rise() -> None:
    marks = Marks(2)
    marks.saw(1, 5)
    marks.saw(1, 3)
    assert marks.at == [0, 5]
    assert marks.token(4) == Token(4, {1: 5})
    assert Marks(2, marks.token(4)).at == [0, 5]


def test_a_bound_is_cut_to_milliseconds_and_may_take_what_is_older() -> None:
    assert fresh(Bounded(0.0029), 7) == (Consistency.BOUNDED, 0, 2, False)
    assert fresh(Bounded(0.029, stale_ok=True), 7) == (Consistency.BOUNDED, 0, 29, True)
    assert fresh(Bounded(1e9), 7)[2] == (1 << 32) - 2
    assert fresh(Consistency.SESSION, 7) == (Consistency.SESSION, 7, 0, False)
    assert fresh(Consistency.LOCAL, 7) == (Consistency.LOCAL, 0, 0, False)


def test_what_is_no_consistency_is_said_so() -> None:
    with pytest.raises(ValueError, match="right is Bounded"):
        checked(Consistency.BOUNDED)
    with pytest.raises(ValueError, match="max_age is 0"):
        Bounded(0)
    with pytest.raises(TypeError, match="right is a number of seconds"):
        Bounded("1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="9 is not a valid Consistency"):
        checked(9)  # type: ignore[arg-type]
