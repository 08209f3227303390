"""A mixed fleet, applications and Redis providers as they really are, put on real processes."""
