"""`python -m eclipse_ws` is the console script `eclipse-ws`."""

from eclipse_ws.cli import main

if __name__ == "__main__":
    main()
