#!/bin/sh
# Checks the program that was built for one case, and writes a JUnit report.
set -e
out=$(./out/hello "$1")
case "$out" in
*": $1") failed=0 ;;
*) failed=1 ;;
esac
if [ "$FAIL" = "$1" ]; then failed=1; fi
{
	echo "<testsuite name=\"hello\" tests=\"1\" failures=\"$failed\"><testcase name=\"$1\" classname=\"hello\">"
	if [ "$failed" = 1 ]; then echo "<failure message=\"it said $out\"/>"; fi
	echo "</testcase></testsuite>"
} > report.xml
exit "$failed"
