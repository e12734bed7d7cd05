#!/usr/bin/env bash
# Packs the plugin, and writes krew's manifest of it. The same input makes the same bytes. Needs GNU tar, gzip and sha256sum.
#
#   deploy/kubectl-plugin/package.sh DIRECTORY REPOSITORY
#
# REPOSITORY is the address of which /releases/download/v<version>/kubectl-nfs_provisioner.tar.gz will be the archive.
set -euo pipefail
directory=$1 repository=$2
files=$(cd "$(dirname "$0")" && pwd)
project=$files/../..
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$project/Cargo.toml")
[[ $repository =~ ^https://[A-Za-z0-9./_-]+[A-Za-z0-9_-]$ ]] || {
	echo "$repository is not where a release can be: an address such as https://github.com/<owner>/nfs-provisioner is" >&2
	exit 1
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
install -m 755 "$files/kubectl-nfs_provisioner" "$work/"
install -m 644 "$project/LICENSE" "$work/"
mkdir -p "$directory"
archive=$directory/kubectl-nfs_provisioner.tar.gz
tar --create --directory "$work" --format ustar --mtime "@${SOURCE_DATE_EPOCH:-0}" --owner 0 --group 0 --numeric-owner \
	LICENSE kubectl-nfs_provisioner | gzip --no-name >"$archive"
sum=$(sha256sum <"$archive" | cut -d' ' -f1)
sed "1d; s|@VERSION@|$version|; s|@REPOSITORY@|$repository|; s|@SHA256@|$sum|" "$files/nfs-provisioner.yaml" \
	>"$directory/nfs-provisioner.yaml"
