# make demo           shows the main job on a control plane of its own (KEEP=1 leaves it up)
# make test           runs all tests
# make test-e2e       those of them on a real node: the image, a kubelet, containerd, Pods
# make test-conformance
#                     Kubernetes' own storage tests on that node, which takes 35 to 50 minutes; FOCUS=<regular expression>
#                     runs those whose names it matches
# make test-compat    those that need a control plane, on the oldest Kubernetes that is supported, or KUBERNETES=<version>
# make check          formatting and lints
# make bench          what it costs, measured on a release build, as docs/benchmarks.md tells: rates (CLAIMS="1 100",
#                     PAIRS=3, PEER=<another program>), memory (CHURN=<claims>), removal (REMOVAL_DIR=<where>), removal-nfs, reaping;
#                     ONLY=rates runs one of them
# make fuzz           tries the properties with new random input for 10 minutes, or FOR=<seconds>, then runs make chaos for as
#                     long; ONLY=properties does the first alone, and needs Rust only
# make chaos          has all go wrong at random for 10 minutes, or FOR=<seconds>, on a control plane of its own, and checks
#                     that no directory was moved, removed or given wrongly; SEED=<number> repeats a run
# make image          the container image as an OCI archive, without Docker or a registry
# make plugin         the plugin for kubectl, packed, and krew's manifest of it; REPOSITORY=<address> is where it is released
CONTROLPLANE := target/controlplane/controlplane
TOOLS := target/tools/helm
KUBELET := target/node/kubelet
CONTAINERD := target/node/containerd
CONFORMANCE := target/conformance/e2e.test
PACKAGE := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
# As OCI calls it.
ARCHITECTURE := $(shell uname -m | sed 's/^x86_64$$/amd64/; s/^aarch64$$/arm64/; s/^armv7l$$/arm\/v7/')
NEWEST := $(shell awk '$$1 == "k8s.io/kubernetes" { print $$2; exit }' tests/controlplane/go.mod)
OLDEST := v1.30.14
# What the programs say that they are, of a version of Kubernetes.
stamp = -X k8s.io/component-base/version.gitVersion=$(1) \
	-X k8s.io/component-base/version.gitMajor=$(word 1,$(subst ., ,$(1:v%=%))) \
	-X k8s.io/component-base/version.gitMinor=$(word 2,$(subst ., ,$(1:v%=%))) \
	-X k8s.io/client-go/pkg/version.gitVersion=$(1)
helm3 = -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=$(word 1,$(1)) \
	-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=$(word 2,$(1))
# Shows how far a build of so many packages is.
progress = awk '/^[^ :]*$$/ { if (++n % 100 == 0) print "  " n " packages compiled, about 2000 in all"; next } { print }'

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

.PHONY: demo test test-e2e test-conformance test-compat check bench fuzz properties chaos static image plugin shell controlplane tools node prerequisites
.DEFAULT_GOAL := test

demo: prerequisites $(CONTROLPLANE)
	cargo build --bins --example demo
	@cargo run --quiet --example demo -- $(if $(KEEP),--keep)

test: prerequisites $(CONTROLPLANE) $(TOOLS) node image
	@tests/run.sh

test-e2e: prerequisites $(CONTROLPLANE) node image
	cargo test --test e2e

test-conformance: prerequisites $(CONTROLPLANE) node image $(CONFORMANCE)
	FOCUS='$(FOCUS)' cargo test --test e2e -- conformance --ignored --nocapture

# Built from the same sources as the newest one.
test-compat: KUBERNETES = $(OLDEST)
test-compat: COMPAT = target/compat/$(KUBERNETES)
test-compat: prerequisites $(TOOLS)
	@echo "Building the Kubernetes $(KUBERNETES) control plane: up to 10 minutes the first time, less than one later."
	@tests/compat.sh $(KUBERNETES) $(COMPAT)/module
	@cd $(COMPAT)/module && CGO_ENABLED=0 go build -v -o ../controlplane -ldflags '-s -w $(call stamp,$(KUBERNETES))' . 2>&1 \
		| $(progress)
	CONTROLPLANE=$(CURDIR)/$(COMPAT)/controlplane cargo test --no-fail-fast --test cluster --test outage

check: prerequisites
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cd tests/controlplane && CGO_ENABLED=0 go vet . && test -z "$$(gofmt -l .)"

bench: prerequisites $(CONTROLPLANE)
	@for bench in $(or $(ONLY),memory removal removal-nfs reaping rates); do \
		case $$bench in \
		removal-nfs) \
			cargo bench --no-run --bench removal; \
			cargo test --test nfs -- removal --ignored --nocapture;; \
		*) cargo bench --bench $$bench;; \
		esac; \
	done

fuzz: $(or $(ONLY),properties chaos)

# All properties run side by side, each for the whole time.
properties:
	PROPERTY_SECONDS=$(or $(FOR),600) cargo test --profile fuzz --test properties -- --test-threads=64 --nocapture
	PROPERTY_SECONDS=$(or $(FOR),600) cargo test --profile fuzz --test storage -- copy_random --nocapture

chaos: prerequisites $(CONTROLPLANE)
	CHAOS_SECONDS=$(or $(FOR),600) $(if $(SEED),CHAOS_SEED=$(SEED)) cargo test --test chaos -- --nocapture

# For the machine it runs on; glibc's static libraries come with any C compiler.
static: HOST = $(shell rustc -vV | sed -n 's/^host: //p')
static: prerequisites
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --bin nfs-provisioner --target $(HOST)
	install -D -m 755 target/$(HOST)/release/nfs-provisioner target/static/nfs-provisioner

image: static
	deploy/image.sh target/image/nfs-provisioner.tar $(PACKAGE) $(ARCHITECTURE)=target/static/nfs-provisioner
	@ls -sh target/image/nfs-provisioner.tar

# The plugin for kubectl, and krew's manifest of it, for a release at REPOSITORY.
plugin:
	deploy/kubectl-plugin/package.sh target/plugin $(or $(REPOSITORY),https://example.com/nfs-provisioner)

# Completion scripts and the manual page.
shell: prerequisites
	cargo run --locked --quiet --example shell -- target/shell

controlplane: prerequisites $(CONTROLPLANE)

$(CONTROLPLANE): $(wildcard tests/controlplane/*.go) tests/controlplane/go.mod tests/controlplane/go.sum
	@echo "Building the Kubernetes $(NEWEST) control plane: up to 10 minutes the first time, less than one later."
	@mkdir -p $(dir $@)
	@cd tests/controlplane && CGO_ENABLED=0 go build -v -o $(CURDIR)/$@ -ldflags '-s -w $(call stamp,$(NEWEST))' . 2>&1 \
		| $(progress)

tools: prerequisites $(TOOLS)

# Helm, Helm 3 (as helm3, which Flux, Argo CD and k3s use) and actionlint. After the control plane, so that what they are
# made of is compiled once. Helm 3 takes the cluster for Kubernetes 1.20 where it asks none, unless its build says otherwise.
$(TOOLS): tests/tools/go.mod tests/tools/go.sum | $(CONTROLPLANE)
	@echo "Building Helm, Helm 3 and actionlint: about 4 minutes the first time."
	@mkdir -p $(dir $@)
	@cd tests/tools && export CGO_ENABLED=0 && \
		go build -o $(CURDIR)/$(dir $@)helm3 -ldflags '-s -w $(call helm3,$(subst ., ,$(NEWEST:v%=%)))' helm.sh/helm/v3/cmd/helm && \
		go build -o $(CURDIR)/$(dir $@) -ldflags '-s -w' $$(go list tool | grep -v helm.sh/helm/v3)
	@touch $@

node: prerequisites $(KUBELET) $(CONTAINERD)

# After the control plane, as the tools.
$(KUBELET): tests/controlplane/kubelet/main.go tests/controlplane/go.mod tests/controlplane/go.sum | $(CONTROLPLANE)
	@echo "Building the kubelet: about 1 minute the first time."
	@mkdir -p $(dir $@)
	@cd tests/controlplane && CGO_ENABLED=0 go build -o $(CURDIR)/$@ -ldflags '-s -w $(call stamp,$(NEWEST))' ./kubelet

# With the shim that runs containers for it, and its client.
$(CONTAINERD): tests/containerd/go.mod tests/containerd/go.sum
	@echo "Building containerd: about 2 minutes the first time."
	@mkdir -p $(dir $@)
	@cd tests/containerd && CGO_ENABLED=0 go build -o $(CURDIR)/$(dir $@) -ldflags '-s -w' \
		-tags no_btrfs,no_devmapper,no_zfs,no_aufs tool
	@touch $@

# Kubernetes' own tests, with the programs of the images that they run. After the control plane, as the tools.
$(CONFORMANCE): tests/conformance/compile.sh tests/controlplane/go.mod tests/controlplane/go.sum | $(CONTROLPLANE)
	@echo "Building Kubernetes' own tests: about 5 minutes the first time."
	@mkdir -p $(dir $@)
	@cd tests/controlplane && export CGO_ENABLED=0 && \
		go build -o $(CURDIR)/$(dir $@) -ldflags '-s -w' \
			github.com/onsi/ginkgo/v2/ginkgo k8s.io/kubernetes/test/images/agnhost \
			github.com/kubernetes-csi/lib-volume-populator/example/hello-populator && \
		go test -c -vet off -o $(CURDIR)/$@ -ldflags '-s -w $(call stamp,$(NEWEST))' -toolexec $(CURDIR)/$< \
			-gcflags k8s.io/kubernetes/test/e2e/framework/volume=-in-tree-volumes=$$(sha256sum <$(CURDIR)/$< | cut -c1-16) k8s.io/kubernetes/test/e2e
	@touch $@

prerequisites:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }
	@command -v go >/dev/null || { echo "go is missing: install Go from https://go.dev/dl" >&2; exit 1; }
