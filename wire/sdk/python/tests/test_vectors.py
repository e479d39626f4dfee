"""The golden vectors of wire/sdk/vectors: what every SDK must read and compute."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import pytest
from fake_wire import age_ms, encode_reply, parse_request

from ringbeam import Code, Compare, Consistency, Delete, Get, Put, Relation, Revision, Txn, ValueIs
from ringbeam import _answers as answers
from ringbeam import _refusal as refusals
from ringbeam import _requests as requests
from ringbeam import _wire as wire
from ringbeam._events import Fold
from ringbeam._frame import HEADER_BYTES, Decoder, FrameError, preamble
from ringbeam._slots import slot_of, tag_of

VECTORS = Path(__file__).parents[2] / "vectors"


def vectors(file: str) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads((VECTORS / file).read_text())
    assert loaded, f"{file} is empty"
    return loaded


FRAMES = vectors("frames.json")
REQUESTS = [vector for vector in FRAMES if vector["kind"] == "request"]
REPLIES = [vector for vector in FRAMES if vector["kind"] == "reply"]
# The SDK does not change rings; those requests are the Rust SDK's alone.
OURS = [vector for vector in REQUESTS if not vector["message"]["body_type"].startswith("Ring")]


def named(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def plain(value: object) -> object:
    """As the vectors write it, but for the names of 64-bit fields, which stay numbers."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return value


def numbers(message: Any, texts: frozenset[str] = frozenset()) -> Any:
    """The vectors' decimal strings as numbers; their hex strings and texts stay. `texts`: more of them."""
    if isinstance(message, dict) and "delta" in message and "fold" in message:
        texts = frozenset({"delta"})  # bytes here, a number elsewhere
    texts |= {"key", "value", "namespace", "client", "peer", "admin", "region", "version", "raft_state", "fault"}
    texts |= {"server", "message", "leader_address", "from", "until", "bytes"}
    if isinstance(message, list):
        return [numbers(item) for item in message]
    if isinstance(message, dict):
        return {
            name: int(value) if isinstance(value, str) and name not in texts else numbers(value)
            for name, value in message.items()
        }
    return message


def body_of(message: dict[str, Any]) -> requests.Body:
    given = numbers(message["body"])
    if message["body_type"] == "Transact":
        compares = [compare_of(compare) for compare in given.pop("compares")]
        then, otherwise = ([step_of(step) for step in given.pop(name)] for name in ("then", "otherwise"))
        given["txn"] = Txn(compares, then, otherwise)
    if "fold" in given:
        given["fold"] = Fold(given["fold"])
    if given.get("after") is not None:
        given["after"] = Revision(**given["after"])
    if {"from", "until"} <= set(given):
        given["start"], given["end"] = bytes.fromhex(given.pop("from")), bytes.fromhex(given.pop("until"))
    if message["body_type"] == "GetMany":
        given["keys"] = tuple(bytes.fromhex(key["bytes"]) for key in given["keys"])
    for name in ("key", "value", "delta"):
        if isinstance(given.get(name), str):
            given[name] = bytes.fromhex(given[name])
    if "namespace" in given:
        given["namespace"] = given["namespace"].encode()
    if "consistency" in given:
        given["consistency"] = Consistency(given["consistency"])
    body: requests.Body = getattr(requests, message["body_type"])(**given)
    return body


def compare_of(given: dict[str, Any]) -> Compare:
    of_value = given["target"] == 1
    target = ValueIs(bytes.fromhex(given["value"])) if of_value else Revision(**given["revision"])
    return Compare(bytes.fromhex(given["key"]), Relation(given["relation"]), target)


def step_of(given: dict[str, Any]) -> Get | Put | Delete:
    key = bytes.fromhex(given["key"])
    steps = (
        Get(key),
        Put(key, bytes.fromhex(given["value"]), ttl=given["ttl_ms"] / 1_000 or None, lease=given["lease"]),
        Delete(key),
    )
    step: Get | Put | Delete = steps[given["kind"]]
    return step


def payload_of(frame: bytes) -> bytes:
    [payload] = Decoder(1 << 20).feed(frame)
    return payload


@pytest.mark.parametrize("vector", OURS, ids=named)
def test_requests_are_encoded_as_their_message(vector: dict[str, Any]) -> None:
    message = vector["message"]
    body = body_of(message)
    given = payload_of(bytes.fromhex(vector["frame"]))
    made = payload_of(wire.encode_request(int(message["id"]), message["deadline_ms"], body))
    assert parse_request(given) == (int(message["id"]), message["deadline_ms"], body)
    assert parse_request(made) == parse_request(given)


def test_every_request_that_the_sdk_has_is_in_the_vectors() -> None:
    known = {kind.__name__ for kind in get_args(requests.Body)}
    assert {vector["message"]["body_type"] for vector in OURS} == known


@pytest.mark.parametrize("vector", REPLIES, ids=named)
def test_replies_are_decoded_to_their_message(vector: dict[str, Any]) -> None:
    message = vector["message"]
    id, answer = wire.decode_reply(payload_of(bytes.fromhex(vector["frame"])))
    kind = type(answer).__name__
    kind = {"Absent": "Value", "Refusal": "Refused", "LeaseStatus": "Lease"}.get(kind, kind)
    assert (id, kind) == (int(message["id"]), message["body_type"])
    # The one number that has a hex string's name.
    wanted = numbers(message["body"]) | ({"value": int(message["body"]["value"])} if kind == "Counted" else {})
    found = plain(answer)
    assert isinstance(found, dict)
    if isinstance(answer, answers.Value):
        found["found"] = True
    nothing = {"found": False, "value": "", "revision": {"index": 0, "position": 0}}
    if isinstance(answer, answers.Absent):
        found |= nothing
    for name in {"items", "gets"} & set(found):
        told = [nothing | {"key": ""} if item is None else {"key": "", "found": True} | item for item in found[name]]
        found[name] = told
    if isinstance(answer, answers.Transacted | answers.Resolved):
        for get in found["gets"]:
            # Not on the wire: the SDK says when it was.
            assert get.pop("index", answer.revision.index) == answer.revision.index
            assert (get.pop("age", None), get.pop("stale", False)) == (None, False)
    if "age" in found:
        found["age_ms"] = age_ms(found.pop("age"))
    for event in found.get("events", ()):
        event["previous"] = event["previous"] and {"found": True} | event["previous"]
    assert found == wanted
    if not isinstance(answer, answers.Status | answers.Topology):
        # The fake node's encoder, which the other tests lean on.
        assert wire.decode_reply(payload_of(encode_reply(id, answer))) == (id, answer)


@pytest.mark.parametrize("vector", FRAMES, ids=named)
def test_frames_of_every_kind_come_apart(vector: dict[str, Any]) -> None:
    frame = bytes.fromhex(vector["frame"])
    assert payload_of(frame) == frame[HEADER_BYTES:]


@pytest.mark.parametrize("piece", [1, 3, 7, 64, 1000])
def test_frames_in_pieces_are_the_frames_whole(piece: int) -> None:
    stream = b"".join(bytes.fromhex(vector["frame"]) for vector in FRAMES)
    decoder = Decoder(1 << 20)
    payloads = [payload for at in range(0, len(stream), piece) for payload in decoder.feed(stream[at : at + piece])]
    assert payloads == [bytes.fromhex(vector["frame"])[HEADER_BYTES:] for vector in FRAMES]


def test_bad_frames_are_refused_by_name_and_nothing_follows() -> None:
    good = bytes.fromhex(FRAMES[0]["frame"])
    flipped = good[:-1] + bytes([good[-1] ^ 1])
    for bad, says in [
        (flipped, "damaged on the way"),
        (bytes(8), "0 bytes"),
        ((1 << 20).to_bytes(4, "little") + bytes(4), "1048576 bytes, the limit of this connection is 4096"),
    ]:
        decoder = Decoder(4096)
        with pytest.raises(FrameError, match=says):
            decoder.feed(bad)
        with pytest.raises(FrameError, match=says):
            decoder.feed(good)


def test_preambles() -> None:
    for vector in vectors("preambles.json"):
        assert preamble(vector["shard"], vector["kind"]).hex() == vector["bytes"]


def test_refusals_have_their_numbers_and_names() -> None:
    assert {vector["code"]: vector["name"] for vector in vectors("refusals.json")} == {
        int(code): code.label for code in Code
    }


def test_slots() -> None:
    for vector in vectors("slots.json"):
        key = bytes.fromhex(vector["key"])
        assert (tag_of(key).hex(), slot_of(key)) == (vector["tag"], vector["slot"])


# ---- beyond the vectors ----


def test_every_damaged_reply_is_malformed_or_an_answer_and_nothing_else() -> None:
    """Bytes that pass the checksum and are no reply: a node with a defect must not end the client's task by
    surprise."""
    for vector in REPLIES:
        payload = bytearray(payload_of(bytes.fromhex(vector["frame"])))
        for at in range(len(payload)):
            for value in (0xFF, payload[at] ^ 4):
                damaged = bytes(payload[:at]) + bytes([value]) + bytes(payload[at + 1 :])
                try:
                    wire.decode_reply(damaged)
                except wire.Malformed:
                    continue
        for length in range(len(payload)):
            try:
                wire.decode_reply(bytes(payload[:length]))
            except wire.Malformed:
                continue


def test_a_value_that_is_cut_off_is_malformed() -> None:
    payload = payload_of(encode_reply(7, answers.Value(b"v" * 100)))
    with pytest.raises(wire.Malformed):
        wire.decode_reply(payload.replace((100).to_bytes(4, "little"), (4000).to_bytes(4, "little")))


def test_a_table_that_points_before_the_payload_is_malformed() -> None:
    payload = bytearray(payload_of(encode_reply(7, answers.Value(b"v" * 100))))
    root = int.from_bytes(payload[:4], "little")
    payload[root : root + 4] = (root + 40).to_bytes(4, "little")
    with pytest.raises(wire.Malformed, match="described at -40"):
        wire.decode_reply(bytes(payload))


def test_a_refusal_of_a_later_version_keeps_its_number_and_its_certainty() -> None:
    refusal = refusals.Refusal(999, True, "the moon is full")  # type: ignore[arg-type]
    _, answer = wire.decode_reply(payload_of(encode_reply(5, refusal)))
    assert answer == refusals.Refusal(Code.INTERNAL, True, "refusal 999 (unknown to this version): the moon is full")


def test_refusals_made_here_say_what_nodes_say() -> None:
    assert str(refusals.check_key(b"")) == "KeyEmpty: the key is empty, it needs 1 to 4096 bytes"
    assert str(refusals.check_key(b"k" * 4097)) == "KeyTooLarge: the key has 4097 bytes, the limit is 4096"
    assert str(refusals.check_value(bytes(9), 8)) == "ValueTooLarge: the value has 9 bytes, the limit is 8"
    too_long = refusals.check_namespace(b"n" * 65)
    assert str(too_long) == "BadNamespace: the namespace has 65 bytes, the limit is 64"
    assert refusals.check_key(b"k" * 4096) is None
    assert refusals.check_value(bytes(8), 8) is None
    assert refusals.check_namespace(b"n" * 64) is None
