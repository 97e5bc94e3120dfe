"""python offline.py FOLDER: verifies what it is told to on standard input, as common/src/lib.rs says.

The chain is inside the process: every payer is rich and has no code, and every transfer succeeds.
"""

import json
import sys
import time
from pathlib import Path

from web3 import Web3
from web3.providers import BaseProvider
from x402 import x402FacilitatorSync
from x402.mechanisms.evm import FacilitatorWeb3Signer
from x402.mechanisms.evm.exact import register_exact_evm_facilitator
from x402.schemas import PaymentPayload, PaymentRequirements

NETWORK = "eip155:84532"
TOKEN = "0x036cbd53842c5426634e7929541ec2318f3dcf7e"
BALANCE_OF = "0x70a08231"
TRANSFER = ("0xe3ee160e", "0xcf092995")


class InstantChain(BaseProvider):
    """Whatever else is asked is an error, so that nothing is measured that did not happen."""

    calls = 0

    def make_request(self, method, params):
        self.calls += 1
        return {"jsonrpc": "2.0", "id": self.calls, "result": self.answer(method, params)}

    def answer(self, method, params):
        if method == "eth_chainId":
            return "0x14a34"
        if method == "eth_getCode":
            return "0x60806040" if params[0].lower() == TOKEN else "0x"
        if method == "eth_call":
            selector = params[0]["data"][:10]
            if selector == BALANCE_OF:
                return "0x" + "e8d4a51000".rjust(64, "0")
            if selector in TRANSFER:
                return "0x"
        raise NotImplementedError(f"this chain does not know {method} {params}")


def main(folder: Path) -> None:
    chain = InstantChain()
    signer = FacilitatorWeb3Signer(private_key="0x" + "1".rjust(64, "0"), rpc_url="http://127.0.0.1:1")
    # The signer makes its own connection; there is no other way to give it one.
    signer._w3.provider = chain
    facilitator = x402FacilitatorSync()
    register_exact_evm_facilitator(facilitator, signer, networks=NETWORK)

    sets: dict[str, list] = {}
    for line in sys.stdin:
        name, count = line.split()
        count = int(count)
        if name not in sets:
            sets[name] = [(folder / f"{name}.jsonl").read_bytes().splitlines(), 0]
        bodies, start = sets[name]
        if start + count > len(bodies):
            start = 0
        sets[name][1] = start + count

        before, good = chain.calls, 0
        started = time.perf_counter_ns()
        for body in bodies[start : start + count]:
            request = json.loads(body)
            payload = PaymentPayload.model_validate(request["paymentPayload"])
            requirements = PaymentRequirements.model_validate(request["paymentRequirements"])
            good += facilitator.verify(payload, requirements).is_valid
        nanos = time.perf_counter_ns() - started
        print(nanos, good, chain.calls - before, flush=True)


main(Path(sys.argv[1]))
