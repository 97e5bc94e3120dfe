# What a newcomer needs: `make demo` and `make test`. Both install what they need themselves.

DEVNET := crates/devnet/node
INTEROP := tests/interop
PEERS := benches/peers
INSTALLED := node_modules/.package-lock.json

.PHONY: demo test interop soak chaos simulate mutations fuzz lint package published deny doc contracts bench-peers clean

demo: $(DEVNET)/$(INSTALLED)
	cargo run --locked --quiet --bin quittance-devnet -- demo

test: $(DEVNET)/$(INSTALLED) $(INTEROP)/$(INSTALLED) $(INTEROP)/v1/$(INSTALLED) $(INTEROP)/python/venv/installed
	cargo test --workspace --locked

# Every client and server of others that we know, with those whose packages take a gigabyte: five minutes.
interop: $(DEVNET)/$(INSTALLED) $(INTEROP)/$(INSTALLED) $(INTEROP)/v1/$(INSTALLED) $(INTEROP)/others/$(INSTALLED) \
		$(INTEROP)/python/venv/installed
	cargo test -p quittance-tests --locked --test interop -- --include-ignored
	cargo test -p quittance-cli --locked --test hostile

# Hundreds of random schedules of faults; about an hour. Outside the gate.
soak: $(DEVNET)/$(INSTALLED)
	QUITTANCE_SOAK=200 cargo test -p quittance-tests --locked --test engine_faults in_any_schedule -- --nocapture

# Facilitators as processes, two chains, and something broken most of the time; then a judge reads the chains. Outside the gate.
MINUTES ?= 60
chaos: $(DEVNET)/$(INSTALLED)
	CHAOS_MINUTES=$(MINUTES) cargo test -p quittance-cli --locked --test chaos -- --ignored --nocapture --test-threads 1

# Engines in simulated worlds, as many seeds as wanted. Outside the gate.
SEEDS ?= 10000
simulate:
	SIMULATE_SEEDS=$(SEEDS) cargo test -p quittance-testing --release --locked --test simulate every_seed -- --nocapture

# Each fault of quittance-testing planted in the real chains and schemes: some minutes for each. Outside the gate.
mutations: $(DEVNET)/$(INSTALLED)
	cargo test -p quittance-tests --locked --no-fail-fast --test evm_exact --test evm_permit2 --test evm_delegation \
		--test evm_upto --test evm_sponsored --test evm_channels --test evm_auth_capture --test evm_chain \
		--test solana_chain --test solana_exact planted_faults_are_caught -- --ignored --nocapture --test-threads 1

# Made-up signatures by four payers against libsecp256k1's verdicts, steered by what code they reach. Outside the gate.
# The longest input is 64 signatures of 98 bytes each, as many as the target reads.
FUZZ_SECONDS ?= 60
SANCOV := -sanitizer-coverage-level=4 -sanitizer-coverage-inline-8bit-counters -sanitizer-coverage-pc-table
fuzz:
	cd crates/verify/fuzz && mkdir -p target/corpus && \
		RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module $(SANCOV:%=-Cllvm-args=%)" \
		cargo run --release --locked --target $$(rustc -vV | sed -n 's/^host: //p') -- \
		target/corpus -max_len=6272 -max_total_time=$(FUZZ_SECONDS)

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Each crate as it would be published. `make published` also builds each one from its own archive: fifteen minutes.
PUBLISHED := --workspace --locked --allow-dirty --exclude quittance-tests --exclude quittance-examples --exclude quittance-benches
package:
	cargo package $(PUBLISHED) --no-verify

published:
	cargo package $(PUBLISHED)

# Advisories, licences and sources of every dependency, by deny.toml. Needs the network: the advisories change daily.
deny: target/tools/bin/cargo-deny
	target/tools/bin/cargo-deny check

target/tools/bin/cargo-deny:
	cargo install cargo-deny --version 0.20.2 --locked --root target/tools

doc:
	cargo doc --workspace --no-deps --locked --open

# The bytes that ship, from their source. A test compiles them again and compares.
contracts: $(DEVNET)/$(INSTALLED)
	cd $(DEVNET) && for source in ../../../chains/evm/contracts/*.yul ../contracts/*.sol; do \
		node compile.js $$source \
			| NAME=$$(basename $${source%.*}) node -e 'process.stdin.on("data", (text) => process.stdout.write(JSON.parse(text)[process.env.NAME]))' \
			> $${source%.*}.hex || exit 1; done

# Quittance beside other implementations, into docs/benchmarks.md: eight minutes on a machine that does nothing else. One
# package at a time, so that none is built with the features another one asks for.
bench-peers: $(DEVNET)/$(INSTALLED) $(PEERS)/typescript/$(INSTALLED) $(PEERS)/python/venv/installed
	cargo build --release --locked --package quittance-cli --target-dir $(PEERS)/target
	cd $(PEERS) && for package in peer-quittance peer-x402-rs peer-x402-rs-secp256k1 peer-r402 peers; do \
		cargo build --release --locked --package $$package || exit 1; done
	$(PEERS)/target/release/peers

%/venv/installed: %/requirements.txt
	python3 -m venv $(@D)
	$(@D)/bin/pip install --quiet --requirement $<
	touch $@

%/$(INSTALLED): %/package-lock.json
	cd $* && npm ci --no-fund --no-audit
	touch $@

clean:
	cargo clean
	rm -rf $(DEVNET)/node_modules $(INTEROP)/node_modules $(INTEROP)/*/node_modules $(INTEROP)/python/venv
	rm -rf $(PEERS)/target $(PEERS)/typescript/node_modules $(PEERS)/python/venv
