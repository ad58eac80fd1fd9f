"""`autotrainer view`: follows run logs in a browser or a terminal, while they are written and afterwards."""
