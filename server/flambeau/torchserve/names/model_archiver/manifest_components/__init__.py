"""The archiver's names for the parts of a manifest."""
