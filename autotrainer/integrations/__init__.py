"""Where people train and track: callbacks of training libraries, sinks and alerts; one library a file."""
