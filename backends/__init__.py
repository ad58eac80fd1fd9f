"""The backends: one framework, one folder. The only code that imports a framework."""
