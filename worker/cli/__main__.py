"""`python -m worker.cli`: how `up` starts its children."""

from worker.cli import main

if __name__ == "__main__":
    main()
