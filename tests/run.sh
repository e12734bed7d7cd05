#!/bin/sh
# Runs all tests and ends with a line that says how many ran. Called by `make test`.
set -u
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# A pipe would hide cargo's exit status.
{
	cargo test --no-fail-fast --color never 2>&1
	echo "exit status $?"
	# The program built so that it can be made to die at each step.
	cargo test --no-fail-fast --color never --features failpoints --test crash 2>&1
	echo "exit status $?"
} | tee "$log"

awk '
	/^test result:/ { passed += $4; failed += $6; skipped += $8 }
	/^exit status / { status += $3 }
	END {
		if (status != 0 && failed == 0) failed = 1
		printf "\ntotal: %d passed, %d failed, %d skipped\n", passed, failed, skipped
		exit status != 0 || passed == 0
	}' "$log"
