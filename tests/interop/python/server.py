"""The official Python SDK sells something: server.py fastapi|flask FACILITATOR_URL NETWORK PAY_TO [ASSET], with the
facilitator's key in FACILITATOR_KEY. Without an asset, the price is in the network's USDC. Prints its port, then serves
until it is stopped."""

import os
import socket
import sys

from x402 import x402ResourceServer, x402ResourceServerSync
from x402.http import FacilitatorConfig, HTTPFacilitatorClient, HTTPFacilitatorClientSync
from x402.http.facilitator_client_base import CreateHeadersAuthProvider

tool, url, network, pay_to, *asset = sys.argv[1:]
authorized = {"Authorization": f"Bearer {os.environ['FACILITATOR_KEY']}"}
headers = CreateHeadersAuthProvider(lambda: {"verify": authorized, "settle": authorized, "supported": authorized})
config = FacilitatorConfig(url=url, auth_provider=headers)
price = {"asset": asset[0], "amount": "10000"} if asset else "$0.01"
routes = {"GET /goods": {"accepts": {"scheme": "exact", "network": network, "price": price, "payTo": pay_to}}}


def registered(server):
    if network.startswith("solana:"):
        from x402.mechanisms.svm.exact import ExactSvmServerScheme as Scheme
    else:
        from x402.mechanisms.evm.exact import ExactEvmServerScheme as Scheme
    return server.register(network, Scheme())


def by_fastapi(listening):
    import uvicorn
    from fastapi import FastAPI
    from x402.http.middleware.fastapi import payment_middleware

    app = FastAPI()
    app.middleware("http")(payment_middleware(routes, registered(x402ResourceServer(HTTPFacilitatorClient(config)))))

    @app.get("/goods")
    async def goods():
        return {"goods": True}

    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


def by_flask(listening):
    from flask import Flask, jsonify
    from werkzeug.serving import make_server
    from x402.http.middleware.flask import payment_middleware

    app = Flask(__name__)
    payment_middleware(app, routes, registered(x402ResourceServerSync(HTTPFacilitatorClientSync(config))))

    @app.get("/goods")
    def goods():
        return jsonify(goods=True)

    make_server("127.0.0.1", listening.getsockname()[1], app, threaded=True, fd=listening.fileno()).serve_forever()


listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
by_fastapi(listening) if tool == "fastapi" else by_flask(listening)
