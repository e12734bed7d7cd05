#!/usr/bin/env bash
# Makes a module of tests/controlplane for another version of Kubernetes: compat.sh VERSION DIRECTORY. All else that it
# consists of is of the versions that this one was released with.
set -euo pipefail
version=$1 directory=$2
source=$(cd "$(dirname "$0")/controlplane" && pwd)
mkdir -p "$directory"
cd "$directory"

# What is generated is not made anew, or all would be looked for anew.
if ! cmp --silent version <(echo "$version"); then
	released=$(cd / && go mod download -json "k8s.io/kubernetes@$version" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')
	{
		grep -E '^(module|go) ' "$source/go.mod"
		echo "require k8s.io/kubernetes $version"
		# These lie in its own tree, and are released as modules of their own under a version that begins with 0.
		sed -n "s,^\t\(k8s.io/[a-z-]*\) => ./staging/.*,replace \1 => \1 v0.${version#v1.},p" "$released"
	} >go.mod
	rm -f go.sum
	cp "$source"/*.go .
	go mod tidy
	echo "$version" >version
fi
cp "$source"/*.go .
