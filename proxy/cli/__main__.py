"""``python -m proxy.cli``, the same as ``llm-optimizer``."""

from proxy.cli import main

if __name__ == "__main__":
    main(prog_name="llm-optimizer")
