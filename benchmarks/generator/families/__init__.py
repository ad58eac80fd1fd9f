"""Program families: kinds of trainings that people write, each with data, networks, losses and habits of its own."""
