#!/usr/bin/env bash
# Writes the container image as an OCI archive: the program, certificates of authorities, and nothing else. The same
# input makes the same bytes. Needs GNU tar, gzip and sha256sum; no Docker, no registry.
#
#   deploy/image.sh ARCHIVE VERSION ARCHITECTURE=BINARY …
#
# ARCHITECTURE is one of OCI's: amd64, arm64, arm/v7, ppc64le, s390x. BINARY is linked statically.
set -euo pipefail
archive=$1 version=$2
shift 2
certificates=${CERTIFICATES:-/etc/ssl/certs/ca-certificates.crt}
# OCI's times: the commit's, if the build says so.
epoch=${SOURCE_DATE_EPOCH:-0}
created=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
layout=$work/layout
mkdir -p "$layout/blobs/sha256"

# Puts a file among the blobs and prints its descriptor, with more fields if there are any.
blob() { # FILE MEDIA-TYPE [FIELDS]
	local digest size
	digest=$(sha256sum <"$1" | cut -d' ' -f1)
	size=$(stat -c %s "$1")
	mv "$1" "$layout/blobs/sha256/$digest"
	printf '{"mediaType":"application/vnd.oci.image.%s","digest":"sha256:%s","size":%s%s}' "$2" "$digest" "$size" "${3:-}"
}

pack() { # DIRECTORY
	tar --create --directory "$1" --format ustar --sort name --mtime "@$epoch" --owner 0 --group 0 --numeric-owner \
		--mode u=rwX,go=rX .
}

manifests=
for each; do
	platform=${each%%=*} binary=${each#*=}
	architecture=${platform%/*} variant=
	if [[ $platform == */* ]]; then variant=",\"variant\":\"${platform#*/}\""; fi

	root=$work/root
	rm -rf "$root"
	install -D -m 755 "$binary" "$root/nfs-provisioner"
	install -D -m 644 "$certificates" "$root/etc/ssl/certs/ca-certificates.crt"
	pack "$root" >"$work/layer"
	contents=$(sha256sum <"$work/layer" | cut -d' ' -f1)
	gzip --no-name "$work/layer"
	layer=$(blob "$work/layer.gz" layer.v1.tar+gzip)

	cat >"$work/config" <<-END
		{"created":"$created","architecture":"$architecture"$variant,"os":"linux","config":{"Entrypoint":["/nfs-provisioner"],"Labels":{"org.opencontainers.image.title":"nfs-provisioner","org.opencontainers.image.version":"$version","org.opencontainers.image.licenses":"Apache-2.0"}},"rootfs":{"type":"layers","diff_ids":["sha256:$contents"]}}
	END
	config=$(blob "$work/config" config.v1+json)
	cat >"$work/manifest" <<-END
		{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":$config,"layers":[$layer]}
	END
	platform="{\"architecture\":\"$architecture\"$variant,\"os\":\"linux\"}"
	manifests+=${manifests:+,}$(blob "$work/manifest" manifest.v1+json ",\"platform\":$platform")
done

cat >"$work/index" <<-END
	{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[$manifests]}
END
# containerd takes the name from the first annotation, others the tag from the second.
names="\"io.containerd.image.name\":\"docker.io/library/nfs-provisioner:$version\",\"org.opencontainers.image.ref.name\":\"$version\""
index=$(blob "$work/index" index.v1+json ",\"annotations\":{$names}")
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}\n' "$index" \
	>"$layout/index.json"
printf '{"imageLayoutVersion":"1.0.0"}\n' >"$layout/oci-layout"

mkdir -p "$(dirname "$archive")"
pack "$layout" >"$archive.part"
mv "$archive.part" "$archive"
