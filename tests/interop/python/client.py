"""The official Python SDK buys something: client.py httpx|requests URL [URL...], with the payer's key in PAYER_KEY, or its
keypair in SOLANA_PAYER_KEY and a node in SOLANA_RPC. Prints a line of JSON for each URL: status, body, and the receipt."""

import asyncio
import json
import os
import sys

from x402 import x402Client, x402ClientSync
from x402.http.utils import decode_payment_response_header


def registered(client):
    """The client with a payer for each key in the environment."""
    if key := os.environ.get("PAYER_KEY"):
        from eth_account import Account
        from x402.mechanisms.evm.exact import register_exact_evm_client
        from x402.mechanisms.evm.signers import EthAccountSigner

        register_exact_evm_client(client, EthAccountSigner(Account.from_key(key)))
    if key := os.environ.get("SOLANA_PAYER_KEY"):
        from x402.mechanisms.svm.exact import register_exact_svm_client
        from x402.mechanisms.svm.signers import KeypairSigner

        register_exact_svm_client(client, KeypairSigner.from_base58(key), rpc_url=os.environ["SOLANA_RPC"])
    # By itself it pays in USDC only; the token of Token-2022 is none.
    client.set_spend_controls({"allowed_assets": True})
    return client


def show(response):
    header = response.headers.get("payment-response") or response.headers.get("x-payment-response")
    receipt = json.loads(decode_payment_response_header(header).model_dump_json(by_alias=True)) if header else None
    print(json.dumps({"status": response.status_code, "body": response.text, "receipt": receipt}))


async def by_httpx(urls):
    from x402.http.clients import x402HttpxClient

    async with x402HttpxClient(registered(x402Client()), timeout=30) as client:
        for url in urls:
            show(await client.get(url))


def by_requests(urls):
    from x402.http.clients import x402_requests

    session = x402_requests(registered(x402ClientSync()))
    for url in urls:
        show(session.get(url, timeout=30))


tool, *urls = sys.argv[1:]
if tool == "httpx":
    asyncio.run(by_httpx(urls))
else:
    by_requests(urls)
