#!/bin/sh
# Names of tests that a terminal, a browser, XML and a CI system might obey.
esc=$(printf '\033')
printf 'TAP version 14\n1..5\n'
echo "ok 1 - <script>alert(1)</script>]]>&amp;"
echo "not ok 2 - $esc[2J$esc]0;owned$(printf '\007')::error::owned"
echo "not ok 3 - ::error file=/etc/passwd,line=1::owned"
printf 'not ok 4 - \377\376 \342\200\256gpj.exe\r\n'
echo "ok 5 - ##[error]owned # SKIP section_start:0:x$(printf '\r')$esc[0K"
