"""The program in the sandbox. It imports the standard library and libguestfs only."""
