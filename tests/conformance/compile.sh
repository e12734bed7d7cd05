#!/usr/bin/env bash
# Stands before Go's own programs in a build of Kubernetes' tests (go build -toolexec): compile.sh PROGRAM ARGUMENT ….
# Where the compiler is told `-in-tree-volumes=…`, which `-gcflags` does for one package, a check is left out of that
# package: that a volume is of a CSI driver. It stands in the way of all tests of cloned volumes, where it is about the
# VolumeAttachment that is to go in the end, of which an NFS volume has none.
#
# The flag also keeps what is compiled this way apart from what is not in Go's cache; its value is a digest of this
# program. `-overlay` would need no such program, but it does not replace what lies in the cache of modules.
set -euo pipefail
program=$1
shift
check='gomega.Expect(pv.Spec.CSI).NotTo(gomega.BeNil())'
arguments=() change=
for argument; do
	case $argument in
	-in-tree-volumes=*) change=yes ;;
	*) arguments+=("$argument") ;;
	esac
done

if [ -n "$change" ]; then
	[ "${arguments[0]}" = -o ] || { echo "$0: the first argument is not -o: ${arguments[*]}" >&2; exit 1; }
	changed=$(dirname "${arguments[1]}")/fixtures.go
	for index in "${!arguments[@]}"; do
		case ${arguments[index]} in
		*/fixtures.go)
			if [ "$(grep -cF "$check" "${arguments[index]}")" != 1 ]; then
				echo "$0: ${arguments[index]} does not have the check once: see whether it is still in the way" >&2
				exit 1
			fi
			grep -vF "$check" "${arguments[index]}" >"$changed"
			arguments[index]=$changed
			;;
		esac
	done
	[ -s "$changed" ] || { echo "$0: no fixtures.go among ${arguments[*]}" >&2; exit 1; }
fi
exec "$program" "${arguments[@]}"
