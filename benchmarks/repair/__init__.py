"""Does `autotrainer.fit` repair faulty trainings, at what cost, and better than random search?"""
