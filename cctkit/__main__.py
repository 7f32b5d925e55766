"""`python -m cctkit`, and so `torchrun -m cctkit`."""

from cctkit.cli.app import main

if __name__ == "__main__":
    main()
