"""What does watching cost a step, and in memory?"""
