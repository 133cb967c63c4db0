"""Makes `python -m bmi.cli` the same as `bmi`."""

from bmi.cli.main import main

main()
