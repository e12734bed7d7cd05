#!/usr/bin/env bash
# Writes stand-ins for the images that Pods of the tests and of deploy/'s examples name, and for the one that holds a
# Pod's namespaces, as one archive for `ctr images import`: images.sh ARCHIVE [PROGRAMS]. Where PROGRAMS is what
# `make test-conformance` builds, so are those that Kubernetes' tests name. All that is in them is Debian's busybox,
# linked statically, and those programs.
set -euo pipefail
archive=$1 programs=${2:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

root=$work/root
mkdir -p "$root/bin" "$root/tmp" "$root/usr/share/nginx/html" "$work/image"
cp "$(command -v busybox)" "$root/bin/busybox"
for name in $(busybox --list); do
	[ "$name" = busybox ] || ln -s busybox "$root/bin/$name"
done
[ -z "$programs" ] || cp "$programs/agnhost" "$programs/hello-populator" "$root/"
tar --create --directory "$root" --owner 0 --group 0 --numeric-owner --file "$work/image/layer.tar" .
layer=$(sha256sum <"$work/image/layer.tar" | cut -d' ' -f1)

images=
image() { # NAME COMMAND [ENTRYPOINT]
	local file=${1//[:\/]/-}.json
	printf '{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"Entrypoint":%s,"Cmd":%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
		"${3:-null}" "$2" "$layer" >"$work/image/$file"
	images+=${images:+,}$(printf '{"Config":"%s","RepoTags":["%s"],"Layers":["layer.tar"]}' "$file" "$1")
}
image localhost/pause:stand-in '["/bin/sleep","2147483647"]'
image docker.io/library/busybox:stable '["/bin/sh"]'
# The first process of a container is not ended by a signal that it does not heed.
image docker.io/library/nginx:stable \
	'["/bin/sh","-c","trap exit TERM; httpd -f -h /usr/share/nginx/html & wait"]'
if [ -n "$programs" ]; then
	for name in $("$programs/e2e.test" --list-images | sort -u); do
		case $name in
		*/agnhost:*) image "$name" '["pause"]' '["/agnhost"]' ;;
		# For their shells.
		*/busybox:* | */glibc-dns-testing:* | */nginx:*) image "$name" '["/bin/sh"]' ;;
		*/hello-populator:*) image "$name" '[]' '["/hello-populator"]' ;;
		esac
	done
fi
printf '[%s]\n' "$images" >"$work/image/manifest.json"
tar --create --directory "$work/image" --file "$archive" .
