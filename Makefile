# One target for each thing that one does by hand.

PYTHON := .venv/bin/python
REQUIREMENTS := tests/python/requirements.txt

# Suites that take minutes: of faults, and of browsers. `make test` leaves them out.
LONG_JS := cluster examples front package page peerjs rtc redis-away redis-loss redis-once redis-start redis-cluster sentinel topics
QUICK_JS := access across check client http ice limits matchbox metrics presence proxies readme reliable rooms shards socketio tls webhook websocket

# The tests that also hold for a server of two nodes.
OF_MANY_NODES := wire native_client bad_input
OF_MANY_NODES_JS := access across client http ice matchbox page peerjs presence reliable socketio topics webhook websocket rooms

# Side by side, for most of them wait most of the time.
NODE_TEST := timeout 900 node --test --test-concurrency=3 --test-timeout=600000

SCRIPT := src/peer_list/redis/script
# In the order in which they are joined.
SCRIPT_PARTS = $(shell sed -n 's|.*include_str!("script/\(.*\)").*|\1|p' $(SCRIPT)/../library.rs)

.PHONY: run test test-all bench fuzz lint audit settings docker docker-check dist install

run:
	cargo run --release

# What a contributor runs.
test: lint install
	cargo test
	cargo test --no-default-features --test router
	cargo build
	cd tests/js && $(NODE_TEST) $(QUICK_JS:=.test.js)
	$(PYTHON) -m pytest tests/python -m "not long"

# What CI runs: with faults, browsers and two nodes.
test-all: test
	NODES=2 cargo test --test it -- $(OF_MANY_NODES)
	cd tests/js && $(NODE_TEST) $(LONG_JS:=.test.js)
	cd tests/js && NODES=2 $(NODE_TEST) $(OF_MANY_NODES_JS:=.test.js)
	$(PYTHON) -m pytest tests/python -m long

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --no-default-features --lib --test router -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps
	tests/check-rust-version
	@tests/install-programs luacheck:lua-check
	cd $(SCRIPT) && cat $(SCRIPT_PARTS) | luacheck --config .luacheckrc -

# Minutes; writes bench/results.
bench: bench/original/node_modules
	cargo bench --bench compare

# Random input at each reader, for as long as CASES says; `make test` does the same for a moment.
fuzz:
	PROPTEST_CASES=$(or $(CASES),1000000) cargo test --release --lib -- panic

%/node_modules: %/package-lock.json
	@tests/install-programs node:nodejs npm:npm
	cd $* && npm ci --no-audit --no-fund
	@touch $@

audit:
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check bans licenses sources

# The tables of docs/settings.md.
settings:
	WRITE_SETTINGS=1 cargo test --quiet --lib page_on_settings

docker:
	docker build -t signal-http-heartbeat .

# Minutes: the image is built and run, by a Docker that runs here.
docker-check:
	tests/docker-check

# What a release consists of, in dist/.
dist:
	packages/dist

# What the tests need besides the Rust toolchain.
install: .venv/installed tests/js/node_modules
	@tests/install-programs nginx:nginx-light haproxy:haproxy caddy:caddy curl:curl chromium:chromium firefox-esr:firefox-esr \
		redis-server:redis-server redis-cli:redis-tools faketime:faketime openssl:openssl turnserver:coturn systemd-analyze:systemd promtool:prometheus \
		"mcs:mono-mcs libmono-system-net-http4.0-cil" mono:mono-runtime

.venv/installed: $(REQUIREMENTS)
	@python3 -c 'import ensurepip' || tests/install-programs python3-venv:python3-venv
	@python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --requirement $(REQUIREMENTS)
	@touch $@
