#!/usr/bin/env bash
# Writes stand-ins for the images that Pods of the tests and of deploy/'s examples name, and for the one that holds a
# Pod's namespaces, as one archive for `ctr images import`: images.sh ARCHIVE. All that is in them is Debian's busybox,
# linked statically.
set -euo pipefail
archive=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

root=$work/root
mkdir -p "$root/bin" "$root/usr/share/nginx/html" "$work/image"
cp "$(command -v busybox)" "$root/bin/busybox"
for name in cat hostname httpd ls sh sleep sync touch; do
	ln -s busybox "$root/bin/$name"
done
tar --create --directory "$root" --owner 0 --group 0 --numeric-owner --file "$work/image/layer.tar" .
layer=$(sha256sum <"$work/image/layer.tar" | cut -d' ' -f1)

images=
image() { # NAME COMMAND
	local file=${1//[:\/]/-}.json
	printf '{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
		"$2" "$layer" >"$work/image/$file"
	images+=${images:+,}$(printf '{"Config":"%s","RepoTags":["%s"],"Layers":["layer.tar"]}' "$file" "$1")
}
image localhost/pause:stand-in '["/bin/sleep","2147483647"]'
image docker.io/library/busybox:stable '["/bin/sh"]'
# The first process of a container is not ended by a signal that it does not heed.
image docker.io/library/nginx:stable \
	'["/bin/sh","-c","trap exit TERM; httpd -f -h /usr/share/nginx/html & wait"]'
printf '[%s]\n' "$images" >"$work/image/manifest.json"
tar --create --directory "$work/image" --file "$archive" .
