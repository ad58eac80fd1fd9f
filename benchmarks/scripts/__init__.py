"""Is ``autotrainer run`` right about unmodified programs, in the styles in which people write them?"""
