#!/bin/sh
# A test beside what it needs: a binary that is made, and a file.
echo "KTAP version 1"
echo "1..1"
echo "  KTAP version 1"
echo "  1..2"
[ "$(./answer)" = "$(cat expected)" ] && echo "  ok 1 answer" || echo "  not ok 1 answer"
echo "  ok 2 later # SKIP not yet"
echo "ok 1 suite"
