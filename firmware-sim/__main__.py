"""Entry of `python firmware-sim COMMAND`: the folder is on the path, its modules top level."""

import sys

if __name__ == "__main__":
    try:
        from cli import main

        main()
    except KeyboardInterrupt:
        sys.exit(130)
