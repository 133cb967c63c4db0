"""The command line: one file per noun, each talking to the service through `bmi.client` only."""
