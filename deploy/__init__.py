"""What shows and ships Flambeau: the demo, and files for clusters."""
