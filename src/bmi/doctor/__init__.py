"""The doctor: what really exists compared with what should, what is wrong around it, and what can be mended."""
