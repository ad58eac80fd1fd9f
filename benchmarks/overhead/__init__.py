"""What does watching cost per step, and in memory?"""
