"""Run the stand-in provider until interrupted; the first line of output is its URL as JSON."""

import argparse
import json
import threading
from contextlib import suppress

from tests.provider import Provider

parser = argparse.ArgumentParser(prog="python -m tests.provider", description=__doc__)
parser.add_argument("--latency", type=float, default=0.0, help="seconds before each response")
parser.add_argument("--dimensions", type=int, default=1536, help="length of vectors (default: 1536)")
parser.add_argument("--refuse", help="return HTTP 400 for inputs that contain this")
parser.add_argument("--crash", help="go down for half a second on inputs that contain this")
parser.add_argument("--port", type=int, default=0, help="port to listen on (default: any free port)")
arguments = parser.parse_args()
provider = Provider(
    latency_seconds=arguments.latency,
    dimensions=arguments.dimensions,
    refuse=arguments.refuse,
    crash=arguments.crash,
    port=arguments.port,
)
with provider, suppress(KeyboardInterrupt):
    print(json.dumps({"url": provider.url}), flush=True)
    threading.Event().wait()
