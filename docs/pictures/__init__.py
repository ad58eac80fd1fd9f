"""The trainings that ``make_pictures.py`` draws on the pages of problems and repairs."""
