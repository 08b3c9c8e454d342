"""Entry of `python firmware-sim COMMAND`: the folder is on the path, its modules top level."""

from cli import main

if __name__ == "__main__":
    main()
