"""Are faulty trainings found, named and found early, and healthy ones left alone?"""
