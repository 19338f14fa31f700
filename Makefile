# make up     builds everything and starts an instance: cluster, Git host, controllers, dashboard, sample
# make test   builds everything and runs all tests
# The other targets are listed by make help.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

# The same flags for every build and test: what one has compiled the next one takes from the cache.
export CGO_ENABLED ?= 0
export GOFLAGS := $(GOFLAGS) -trimpath

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# Helm's own build sets its version in this way; charts see it.
HELM    := $(shell sed -n 's/^[[:space:]]*helm.sh\/helm\/v4 \(v[^ ]*\).*/\1/p' go.mod)
LDFLAGS := -s -w -X main.version=$(VERSION) -X helm.sh/helm/v4/internal/version.version=$(HELM)
GOBUILD := go build -v -ldflags '$(LDFLAGS)'

# A cold build downloads hundreds of modules and compiles more than two thousand packages; the counter shows that it moves.
# On a terminal it is one line, elsewhere a line now and then; everything else that go says is passed on.
COUNT := awk -v t="$$([ -t 2 ] && echo 1 || true)" ' \
	function show(every) { if (t) printf "\r  %s: %d modules downloaded, %d packages compiled", name, d, n; \
		else if ((d + n) % every == 0) printf "  %s: %d modules downloaded, %d packages compiled\n", name, d, n; fflush() } \
	/^go: downloading/ { d++; show(100); next } \
	/^[a-zA-Z0-9_.\/~-]+$$/ { n++; show(200); next } \
	{ if (t && d + n) print ""; print; fflush() } \
	END { if (d + n) { show(1); if (t) print "" } }'

# See the rule for $(FLUX) below.
FLUX_VERSION := v2.9.5
FLUX_SUM     := h1:jwCccxvkD+2QnsjN+pl5QqM8KnFUwA8pIoQ1Lf0avkA=
FLUX         := .out/flux-$(FLUX_VERSION)

WEB         := web/dist/.stamp
WEB_SOURCES := $(shell find web/src web/public -type f) $(addprefix web/,index.html vite.config.ts tsconfig.json package.json)

.PHONY: help build up down test flux lint bench generate generate-check screenshots

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

# The program is linked aside and copied to its place: the pages of a copied file are mapped in small pieces, which
# takes a third off the memory that a short command is charged with (Linux maps whole folios of the page cache).
build: $(WEB) ## build bin/keelson, bin/keelson-cluster, bin/kubectl, bin/helm and bin/kustomize
	@mkdir -p bin .out
	@echo "building bin/keelson"
	@$(GOBUILD) -o .out/keelson ./cmd/keelson 2>&1 | $(COUNT) name=keelson
	@cmp -s .out/keelson bin/keelson || install -m 755 .out/keelson bin/keelson
	@ln -sf keelson bin/kubectl
	@ln -sf keelson bin/helm
	@ln -sf keelson bin/kustomize
	@echo "building bin/keelson-cluster"
	@cd cluster && $(GOBUILD) -o ../bin/keelson-cluster . 2>&1 | $(COUNT) name=keelson-cluster

# The dashboard is embedded into the program. Where it cannot be built, the program says so on its first page.
NODE_IS_THERE := command -v npm >/dev/null && node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || a == 20 && b >= 19 ? 0 : 1)'

$(WEB): $(WEB_SOURCES) web/node_modules/.stamp
	@if $(NODE_IS_THERE); then echo "building the dashboard"; cd web && npm run --silent build -- --logLevel warn && touch dist/.stamp; \
	else echo "SKIPPED: the dashboard: it takes npm, and Node.js 20.19 or newer" >&2; fi

web/node_modules/.stamp: web/package-lock.json
	@if $(NODE_IS_THERE); then echo "fetching what the dashboard is built with"; \
		cd web && npm ci --no-audit --no-fund --loglevel error && touch node_modules/.stamp; fi

up: build ## start an instance and wait until it is healthy
	@bin/keelson up

down: ## stop the instance
	@bin/keelson down

test: export KEELSON_BINARY = $(CURDIR)/bin/keelson
test: export KEELSON_CLUSTER_BINARY = $(CURDIR)/bin/keelson-cluster
test: export FLUX_BINARY = $(CURDIR)/$(FLUX)
# The tests of whole instances wait more than they work: they begin first, with others beside them.
test: build $(FLUX) ## run all tests
	go test -timeout 25m ./test/e2e ./...
	cd cluster && go test -timeout 20m ./...
	@if $(NODE_IS_THERE); then cd web && npm test --silent; else echo "SKIPPED: the tests of the dashboard's parts: it takes npm, and Node.js 20.19 or newer"; fi
	@command -v chromium >/dev/null && test -d web/node_modules/playwright-core || \
		echo "SKIPPED: the tour of the dashboard: it takes chromium, npm, and Node.js 20.19 or newer"
	@bin/keelson-cluster run --node real --check >.out/node-check 2>&1 || \
		{ echo "SKIPPED: the tests of the real node (docs/cluster.md), because:"; grep '^missing' .out/node-check; }

# The real flux program, which the tests point at an instance. Its module embeds manifests that its own build makes from the
# network and that no test needs: an empty one stands in for them. It is no dependency of ours, so it is built from its own
# go.mod, once for each version; the module proxy is all that it takes.
flux: $(FLUX) ## build the flux program that the tests use
	@echo $(CURDIR)/$(FLUX)

$(FLUX): SRC = .out/flux-src
$(FLUX):
	@rm -rf $(SRC) && mkdir -p $(SRC)
	@info=$$(GOWORK=off go mod download -json github.com/fluxcd/flux2/v2@$(FLUX_VERSION)) || { echo "$$info" >&2; exit 1; }; \
	grep -qF '"Sum": "$(FLUX_SUM)"' <<<"$$info" || { echo "flux $(FLUX_VERSION) is not what FLUX_SUM says" >&2; exit 1; }; \
	dir=$$(sed -n 's/^.*"Dir": "\(.*\)".*$$/\1/p' <<<"$$info"); \
	cp -R "$$dir"/{cmd,internal,pkg,go.mod,go.sum} $(SRC) && chmod -R u+w $(SRC)
	@mkdir -p $(SRC)/cmd/flux/manifests && echo '{}' > $(SRC)/cmd/flux/manifests/none.yaml
	@echo "building flux $(FLUX_VERSION) for the tests" >&2
	@cd $(SRC) && GOWORK=off go build -v -ldflags '-s -w -X main.VERSION=$(FLUX_VERSION:v%=%)' -o flux ./cmd/flux 2>&1 | $(COUNT) name=flux >&2
	@mv $(SRC)/flux $@ && rm -rf $(SRC)

screenshots: build ## take the pictures of docs/ from an instance
	KEELSON_BINARY=$(CURDIR)/bin/keelson KEELSON_CLUSTER_BINARY=$(CURDIR)/bin/keelson-cluster KEELSON_SCREENSHOTS=$(CURDIR)/docs \
		go test -timeout 20m -count=1 -run 'TestDashboard|TestPodLogInBrowser' ./test/e2e

lint: web/node_modules/.stamp ## check style, layers and complexity
	@if $(NODE_IS_THERE); then cd web && npm run --silent check; else echo "SKIPPED: the check of the dashboard: it takes npm, and Node.js 20.19 or newer"; fi
	@mkdir -p bin/tools
	cd tools && GOWORK=off go build -o ../bin/tools/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	bin/tools/golangci-lint run
	cd cluster && ../bin/tools/golangci-lint run

bench: build ## measure what the README claims
	go run ./bench

# Only the kinds that Keelson serves; their modules hold more.
CRDS := $(addprefix source.toolkit.fluxcd.io_,gitrepositories.yaml helmcharts.yaml helmrepositories.yaml ocirepositories.yaml) \
	helm.toolkit.fluxcd.io_helmreleases.yaml kustomize.toolkit.fluxcd.io_kustomizations.yaml \
	$(addprefix notification.toolkit.fluxcd.io_,alerts.yaml providers.yaml receivers.yaml)

generate: ## generate config/crd from the upstream API modules and from api/
	@mkdir -p bin/tools
	cd tools && GOWORK=off go build -o ../bin/tools/controller-gen sigs.k8s.io/controller-tools/cmd/controller-gen
	rm -rf .out/crd config/crd && mkdir -p .out/crd config/crd
	bin/tools/controller-gen crd paths=github.com/fluxcd/source-controller/api/v1 paths=github.com/fluxcd/kustomize-controller/api/v1 \
		paths=github.com/fluxcd/helm-controller/api/v2 paths=github.com/fluxcd/notification-controller/api/v1 \
		paths=github.com/fluxcd/notification-controller/api/v1beta3 output:crd:dir=.out/crd
	cd .out/crd && cp $(CRDS) ../../config/crd/
	sed -i 's/^\( *\)- ExternalArtifact$$/&\n\1- Project/' config/crd/notification.toolkit.fluxcd.io_receivers.yaml # may be woken too
	sed -i 's/^\( *\)- ExternalArtifact$$/&\n\1- Application\n\1- ApplicationSet\n\1- Project\n\1- Receiver/' config/crd/notification.toolkit.fluxcd.io_alerts.yaml # have events too
	bin/tools/controller-gen object paths=./api/argocd/... output:object:dir=api/argocd/v1alpha1
	bin/tools/controller-gen object paths=./api/v1alpha1/... output:object:dir=api/v1alpha1
	bin/tools/controller-gen crd paths=./api/... output:crd:dir=config/crd

generate-check: generate ## fail if generated files are not up to date
	git diff --exit-code -- config/crd api
	@test -z "$$(git status --porcelain -- config/crd api)" || { git status --short -- config/crd api; exit 1; }
