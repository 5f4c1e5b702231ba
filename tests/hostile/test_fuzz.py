"""The fuzzers' targets, fed by hypothesis and with mutated examples; ``make fuzz`` does it longer.

``LAB_HOSTILE_FUZZ`` says how many mutated inputs each gets (100), ``LAB_HOSTILE_SEED`` which.
"""

from __future__ import annotations

import os
import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .faults import seeded
from .fuzz.targets import TARGETS
from .mutate import WORDS

COUNT = int(os.environ.get("LAB_HOSTILE_FUZZ", "100"))
SECONDS = 20.0
"""Of the processor's time, for one input."""


BYTES = st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode("utf-8", "ignore"))


def mutate(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(changed) + 1)
        end = min(len(changed), at + chance.choice((1, 4, 64)))
        kind = chance.randrange(7)
        if kind == 0 and at < len(changed):
            changed[at] = chance.randrange(256)
        elif kind == 1:
            changed[at:at] = chance.choice(WORDS)
        elif kind == 2:
            del changed[at:end]
        elif kind == 3:
            changed[at:at] = changed[at:end] * chance.choice((2, 50, 5000))
        elif kind == 4:
            changed[at:end] = str(chance.choice((0, -1, 1 << 31, 1 << 64, 10**50))).encode()
        elif kind == 5:
            changed[at:end] = bytes(chance.choice((0, 255, 127)) for _ in range(end - at))
        else:
            other = chance.choice(others)
            begin = chance.randrange(len(other) + 1)
            changed[at:at] = other[begin : begin + chance.randint(1, 200)]
    return bytes(changed[: 1 << 17])


def feed(name: str, data: bytes) -> None:
    began = time.process_time()
    TARGETS[name].feed(data)
    took = time.process_time() - began
    assert took < SECONDS, f"{took} s for {len(data)} bytes"


@pytest.mark.parametrize("name", TARGETS)
def test_examples_and_what_was_found_before(name: str) -> None:
    for example in TARGETS[name].corpus(name):
        feed(name, example)


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_examples(name: str) -> None:
    chance = seeded(f"fuzz {name}")
    examples = [example[: 1 << 16] for example in TARGETS[name].corpus(name)] or [b"x"]
    for number in range(COUNT):
        data = mutate(chance.choice(examples), examples, chance)
        try:
            feed(name, data)
        except Exception:
            print(f"input {number}: {data!r:.3000}")
            raise


@pytest.mark.parametrize("name", TARGETS)
@settings(deadline=None, max_examples=50, suppress_health_check=list(HealthCheck))
@given(
    data=st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode("utf-8", "ignore"))
)
def test_any_bytes(name: str, data: bytes) -> None:
    feed(name, data)
