"""Images, the disks cloned from them, and the snapshots that become images again."""
