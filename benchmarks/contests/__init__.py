"""Contests that others publish, run side by side: what clients miss when connections or nodes fail."""
