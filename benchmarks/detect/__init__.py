"""Does watching detect faulty trainings early and name their cause, without false alarms on healthy ones?"""
