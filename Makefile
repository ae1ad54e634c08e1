# One target for each thing that one does by hand.

PYTHON := .venv/bin/python
REQUIREMENTS := tests/python/requirements.txt

# The tests that also hold for a server of two nodes.
OF_MANY_NODES := wire native_client bad_input
OF_MANY_NODES_JS := $(addsuffix .test.js,across client http page presence reliable socketio websocket)

SCRIPT := src/peer_list/cluster/script
# In the order in which they are joined.
SCRIPT_PARTS = $(shell sed -n 's|.*include_str!("script/\(.*\)").*|\1|p' $(SCRIPT)/../library.rs)

.PHONY: run test bench lint audit docker install

run:
	cargo run --release

test: lint install
	cargo test
	NODES=2 cargo test --test it -- $(OF_MANY_NODES)
	cargo build
	cd tests/js && timeout 600 node --test
	cd tests/js && NODES=2 timeout 600 node --test $(OF_MANY_NODES_JS)
	$(PYTHON) -m pytest tests/python

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps
	@tests/install-programs luacheck:lua-check
	cd $(SCRIPT) && cat $(SCRIPT_PARTS) | luacheck --config .luacheckrc -

# Minutes; writes bench/results.
bench: bench/original/node_modules
	cargo bench --bench compare

%/node_modules: %/package-lock.json
	@tests/install-programs node:nodejs npm:npm
	cd $* && npm ci --no-audit --no-fund
	@touch $@

audit:
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check bans licenses sources

docker:
	docker build -t signal-http-heartbeat .

# What the tests need besides the Rust toolchain.
install: .venv/installed tests/js/node_modules
	@tests/install-programs nginx:nginx-light curl:curl chromium:chromium \
		redis-server:redis-server redis-cli:redis-tools faketime:faketime openssl:openssl

.venv/installed: $(REQUIREMENTS)
	@python3 -c 'import ensurepip' || tests/install-programs python3-venv:python3-venv
	@python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --requirement $(REQUIREMENTS)
	@touch $@
