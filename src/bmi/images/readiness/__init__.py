"""Whether images can boot over iSCSI, and making them so."""
