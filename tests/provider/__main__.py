"""The stand-in as a process of its own: its address on the first line, then silence until it is interrupted."""

import argparse
import json
import threading
from contextlib import suppress

from tests.provider import Provider

parser = argparse.ArgumentParser(prog="python -m tests.provider", description=__doc__)
parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
parser.add_argument("--dimensions", type=int, default=1536)
parser.add_argument("--refuse", help="answer 400 to inputs that contain this")
parser.add_argument("--crash", help="be away for a while after inputs that contain this")
parser.add_argument("--port", type=int, default=0, help="0: a free one")
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
