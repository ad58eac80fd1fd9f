"""What the targets of a batch show besides their values: how a loss weights their classes, and which are padding."""
