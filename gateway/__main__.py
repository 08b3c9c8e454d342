"""`python -m gateway` is `sluicegate`."""

from gateway.cli import main

if __name__ == "__main__":
    main()
