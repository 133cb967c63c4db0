"""Takes over what the original BMI (M2) had in its database; what lies in Ceph stays where it is."""
