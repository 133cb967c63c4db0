"""HIL (Hardware Isolation Layer): what the drivers `hil` of inventory, switch and power have in common.

HIL gives nodes to projects, puts their network cards on networks and leads to their management controllers.
docs/hil.md has what is known of how it answers, and the test of each fact.
"""
