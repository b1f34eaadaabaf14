"""`python -m docs.generate` writes the reference pages; with `--check` it fails if one differs from the code."""

import argparse
import sys

from docs import generate

parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page has drifted")
if parser.parse_args().check:
    if names := generate.drifted():
        sys.exit(f"docs/reference/{', docs/reference/'.join(names)} differs from the code; run `make docs`")
else:
    generate.write()
