"""The timed trainings of libraries, one a file: ``build`` returns the network and the call that trains it."""
