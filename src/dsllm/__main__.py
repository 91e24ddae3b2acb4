"""`python -m dsllm`: the same command, as launchers such as torchrun start it."""

from dsllm.cli.main import main

if __name__ == "__main__":
    main()
