"""Give hostile input to everything that reads what comes from the network or from users: ``make fuzz``.

``targets`` has one row for each reader. tests/test_fuzz.py runs a few hundred cases of each.
"""
