"""What test programs and modules print, written after the specifications of TAP and KTAP."""

from __future__ import annotations

# Linux Documentation/dev-tools/ktap.rst: nested by two columns, a version line for each level.
KTAP_DEEP = """\
KTAP version 1
1..2
  KTAP version 1
  1..2
    KTAP version 1
    1..2
    # connect: took 3 ms
    ok 1 connect
    # bind: EADDRINUSE at net.c:12
    not ok 2 bind
  # ipv4: pass:1 fail:1
  not ok 1 ipv4
  ok 2 ipv6 # SKIP no IPv6 here
not ok 1 net
random: crng reseeded
ok 2 timers
"""

# As tools/testing/selftests/kselftest.h prints it.
KSELFTEST = """\
TAP version 13
1..5
ok 1 mmap anonymous
# mmap: Invalid argument
not ok 2 mmap shared
# the next one
ok 3 mmap huge # XFAIL not before 6.9
ok 4 mmap dax # SKIP no pmem
not ok 5 mmap slow # TIMEOUT 45 seconds
# Totals: pass:1 fail:2 xfail:1 xpass:0 skip:1 error:0
"""

TAP13_YAML = """\
TAP version 13
1..3
ok 1 - Input file opened
not ok 2 - First line
  ---
  message: "ok 7 - not a result"
  data:
    got: 'ok 8'
  ...
ok 3
"""

TAP14_SUBTESTS = """\
TAP version 14
1..2
# Subtest: foo.tap
    1..1
    ok 1 - this passed
ok 1 - foo.tap
# Subtest: bar.tap
    not ok 1 - object of type Foo # TODO not written
    ok 2 - second \\# part \\o/
    1..2
ok 2 - bar.tap
"""

# KUnit's form, as a module logs it whose pr_fmt has its name; another driver logs between.
KUNIT_LOG = [
    "ktaplog: loading out-of-tree module taints kernel.",
    "sums: KTAP version 1",
    "sums: 1..1",
    "sums:     KTAP version 1",
    "sums:     # Subtest: sums",
    "sums:     1..2",
    "sums:     ok 1 adds",
    "e1000: link up",
    "sums:     # subtracts: EXPECTATION FAILED at sums.c:9",
    "sums:     not ok 2 subtracts",
    "sums: # sums: pass:1 fail:1 skip:0 total:2",
    "sums: not ok 1 sums",
]

# Linux 5.10: a suite of a module has neither a version nor a plan around it.
OLD_KUNIT_LOG = [
    "    # Subtest: example",
    "    1..1",
    "    ok 1 - simple",
    "ok 3 - example",
    "    # Subtest: second",
    "    1..1",
    "    ok 1 - other",
    "ok 4 - second",
]
