"""The scenarios of wire/sdk/vectors/behaviour.json against a real ring. Its README says what the words mean."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from live import LiveRing, needs_ring

import ringbeam
from ringbeam import (
    ABSENT,
    Bounded,
    Compare,
    Consistency,
    Counted,
    Event,
    Item,
    Read,
    Relation,
    Revision,
    Transacted,
    Txn,
    Value,
    ValueIs,
    Written,
)

BEHAVIOUR = json.loads((Path(__file__).parents[2] / "vectors" / "behaviour.json").read_text())

FIELDS = {
    "put": {"key", "value", "ttl_ms", "namespace", "timeout_ms", "count", "expect", "remember"},
    "delete": {"key", "namespace", "timeout_ms", "count", "expect", "remember"},
    "get": {"key", "namespace", "timeout_ms", "consistency", "max_age_ms", "within_ms", "count", "expect", "remember"},
    "add": {"key", "delta", "min", "max", "namespace", "timeout_ms", "expect", "remember"},
    "append": {"key", "delta", "namespace", "timeout_ms", "count", "expect", "remember"},
    "merge_patch": {"key", "patch", "namespace", "timeout_ms", "count", "expect", "remember"},
    "delete_range": {"prefix", "start", "end", "namespace", "timeout_ms", "expect"},
    "cas": {"key", "value", "absent", "revision", "value_is", "namespace", "timeout_ms", "expect", "remember"},
    "txn": {"when", "then", "otherwise", "namespace", "timeout_ms", "expect", "remember"},
    "get_many": {"keys", "namespace", "timeout_ms", "expect"},
    "scan": {
        "prefix",
        "start",
        "end",
        "limit",
        "backward",
        "keys_only",
        "namespace",
        "timeout_ms",
        "consistency",
        "within_ms",
        "expect",
    },
    "watch": {"as", "prefix", "start", "end", "snapshot", "goes_on_from", "namespace", "timeout_ms"},
    "events": {"of", "expect"},
    "kill_leader": {"shard", "during"},
    "restart": set(),
    "sleep": {"ms"},
}
EXPECTED = {
    "found",
    "value",
    "existed",
    "duplicate",
    "succeeded",
    "sum",
    "deleted",
    "stale",
    "events",
    "keys",
    "values",
    "revision_is",
    "revision_after",
    "refused",
    "error",
}

Step = dict[str, Any]
Answer = Written | Counted | Read | Transacted | list[Value | None] | list[Item] | int | ringbeam.Error


@pytest.fixture(scope="module")
def ring() -> Iterator[LiveRing]:
    with LiveRing(**BEHAVIOUR["ring"]) as ring:
        yield ring


@needs_ring
@pytest.mark.parametrize("scenario", BEHAVIOUR["scenarios"], ids=lambda scenario: scenario["name"])
async def test_scenario(ring: LiveRing, scenario: dict[str, Any]) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=15.0) as client:
        run = Run(ring, client)
        for at, step in enumerate(scenario["steps"]):
            try:
                await run.step(step)
            except AssertionError as why:
                raise AssertionError(f"step {at}, {json.dumps(step)[:200]}: {why}") from None


def test_every_word_is_one_that_the_readme_has() -> None:
    def check(step: Step) -> None:
        assert set(step) - {"do"} <= FIELDS[step["do"]], step
        assert set(step.get("expect", {})) <= EXPECTED, step
        if "during" in step:
            check(step["during"])

    for scenario in BEHAVIOUR["scenarios"]:
        for step in scenario["steps"]:
            check(step)


class Run:
    """One scenario under way."""

    def __init__(self, ring: LiveRing, client: ringbeam.Client) -> None:
        self.ring = ring
        self.client = client
        self.revisions: dict[str, Revision] = {}
        self.done = 0
        # By name: a watch, its events, and which were taken.
        self.watches: dict[str, tuple[ringbeam.Watch, AsyncIterator[Event]]] = {}

    async def step(self, step: Step) -> None:
        match step["do"]:
            case "sleep":
                await asyncio.sleep(step["ms"] / 1000)
            case "restart":
                self.ring.restart()
            case "watch":
                await self.watch(step)
            case "events":
                await self.events(step)
            case "kill_leader" if "during" in step:
                meanwhile = asyncio.create_task(self.calls(step["during"]))
                while self.done < step["during"]["count"] // 3 and not meanwhile.done():
                    await asyncio.sleep(0.001)
                await self.ring.kill_leader(self.client, step["shard"])
                await meanwhile
            case "kill_leader":
                await self.ring.kill_leader(self.client, step["shard"])
            case _:
                await self.calls(step)

    async def watch(self, step: Step) -> None:
        prefix, start, end = (octets(step[name]) if name in step else None for name in ("prefix", "start", "end"))
        watch = self.client.watch(
            prefix=prefix,
            start=start,
            end=end,
            snapshot=step.get("snapshot", False),
            after=self.watches[step["goes_on_from"]][0].token if "goes_on_from" in step else None,
            namespace=octets(step.get("namespace", "")).decode(),
            timeout=step.get("timeout_ms", 15_000) / 1000,
        )
        await watch.start()
        self.watches[step["as"]] = (watch, aiter(watch))

    async def events(self, step: Step) -> None:
        _, events = self.watches[step["of"]]
        wanted = [(kind, octets(key), octets(value)) for kind, key, value in step["expect"]["events"]]
        found: list[tuple[str, bytes, bytes]] = []
        async with asyncio.timeout(30.0):
            while len(found) < len(wanted):
                event = await anext(events)
                found.append((event.kind.name.lower(), event.key, event.value))
        assert found == wanted

    async def calls(self, step: Step) -> None:
        self.done = 0
        for n in range(step.get("count", 1)):
            one = numbered(step, str(n)) if "count" in step else step
            give_up = time.monotonic() + step.get("within_ms", 0) / 1000
            while why := self.misses(one.get("expect", {}), answer := await self.call(one)):
                assert time.monotonic() < give_up, why
                await asyncio.sleep(0.01)
            if "remember" in step:
                revision = revision_of(answer)
                assert revision is not None
                self.revisions[step["remember"]] = revision
            self.done += 1

    async def call(self, step: Step) -> Answer:
        namespace = octets(step.get("namespace", "")).decode()
        client = self.client.namespace(namespace).with_timeout(step.get("timeout_ms", 5000) / 1000)
        key = octets(step.get("key", ""))
        level = step.get("consistency", "linearizable")
        consistency: Consistency | Bounded = (
            Bounded(step["max_age_ms"] / 1000) if level == "bounded" else Consistency[level.upper()]
        )
        bounds = [octets(step[name]) if name in step else None for name in ("prefix", "start", "end")]
        try:
            match step["do"]:
                case "add":
                    return await client.add(key, step["delta"], min=step.get("min"), max=step.get("max"))
                case "append":
                    return await client.append(key, octets(step["delta"]))
                case "merge_patch":
                    return await client.merge_patch(key, octets(step["patch"]))
                case "delete_range":
                    return await client.delete_range(prefix=bounds[0], start=bounds[1], end=bounds[2])
                case "cas":
                    return await client.cas(key, self.target(step, "value_is"), octets(step["value"]))
                case "txn":
                    return await client.txn(self.transaction(step))
                case "get_many":
                    return await client.get_many([octets(key) for key in step["keys"]])
                case "scan":
                    found = client.scan(
                        prefix=bounds[0],
                        start=bounds[1],
                        end=bounds[2],
                        limit=step.get("limit"),
                        backward=step.get("backward", False),
                        keys_only=step.get("keys_only", False),
                        consistency=consistency,
                    )
                    return [item async for item in found]
                case "put":
                    ttl = step["ttl_ms"] / 1000 if "ttl_ms" in step else None
                    return await client.put(key, octets(step["value"]), ttl=ttl)
                case "delete":
                    return await client.delete(key)
                case "get":
                    return await client.read(key, consistency=consistency)
        except ringbeam.Error as error:
            return error
        raise AssertionError(f"{step['do']} is no step")

    def target(self, part: Step, value: str) -> Revision | ValueIs:
        if part.get("absent"):
            return ABSENT
        return self.revisions[part["revision"]] if "revision" in part else ValueIs(octets(part[value]))

    def transaction(self, step: Step) -> Txn:
        def one(part: Step) -> ringbeam.Get | ringbeam.Put | ringbeam.Delete:
            if "put" in part:
                return ringbeam.Put(octets(part["put"]), octets(part["value"]))
            return ringbeam.Delete(octets(part["delete"])) if "delete" in part else ringbeam.Get(octets(part["get"]))

        when = [
            Compare(octets(part["key"]), Relation[part.get("relation", "equal").upper()], self.target(part, "value"))
            for part in step.get("when", [])
        ]
        return Txn(when, [one(part) for part in step["then"]], [one(part) for part in step.get("otherwise", [])])

    def misses(self, expect: dict[str, Any], answer: Answer) -> str:
        """What of `expect` does not hold; "": nothing."""
        fails = {"refused", "error"} & set(expect)
        if isinstance(answer, ringbeam.Error) and not fails:
            return f"failed: {answer!r}"
        for name, wanted in expect.items():
            match name:
                case "refused":
                    held = isinstance(answer, ringbeam.Refused) and answer.code.label == wanted
                case "error":
                    held = type(answer).__name__ == wanted
                case "found":
                    held = isinstance(answer, Read) and (answer.found is not None) is wanted
                case "value":
                    found_value = answer.found if isinstance(answer, Read) else None
                    held = found_value is not None and found_value.value == octets(wanted)
                case "sum":
                    held = isinstance(answer, Counted) and answer.value == wanted
                case "deleted":
                    held = answer == wanted
                case "keys":
                    held = isinstance(answer, list) and [getattr(item, "key", None) for item in answer] == [
                        octets(key) for key in wanted
                    ]
                case "values":
                    found = answer.gets if isinstance(answer, Transacted) else answer
                    held = isinstance(found, tuple | list) and [item and item.value for item in found] == [
                        None if value is None else octets(value) for value in wanted
                    ]
                case "revision_is":
                    held = revision_of(answer) == self.revisions[wanted]
                case "revision_after":
                    revision = revision_of(answer)
                    held = revision is not None and revision > self.revisions[wanted]
                case _:
                    held = getattr(answer, name, None) is wanted
            if not held:
                return f"expected {name} {str(wanted)[:50]}, got {str(answer)[:200]!r}"
        return ""


def revision_of(answer: Answer) -> Revision | None:
    if isinstance(answer, Read):
        return None if answer.found is None else answer.found.revision
    return answer.revision if isinstance(answer, Written | Counted | Transacted) else None


def octets(text: str | dict[str, Any]) -> bytes:
    if isinstance(text, str):
        return text.encode()
    if "hex" in text:
        return bytes.fromhex(text["hex"])
    repeated: str = text["repeat"]
    return repeated.encode() * int(text["times"])


def numbered(part: Any, n: str) -> Any:
    """Each `#` in a string is `n`."""
    if isinstance(part, dict):
        return {name: numbered(value, n) for name, value in part.items()}
    if isinstance(part, list):
        return [numbered(value, n) for value in part]
    return part.replace("#", n) if isinstance(part, str) else part
