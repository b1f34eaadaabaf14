"""`python -m worker.cli`, the command with which `up` starts its child processes."""

from worker.cli import main

if __name__ == "__main__":
    main()
