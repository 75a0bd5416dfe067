"""Mutation testing: change the app's code in one place, and see if a test fails (``make mutants``).

Cosmic Ray finds the places and makes the changes. What it lacks is here: operators for texts, statements and arguments
(``operators``), the tests that run a changed line (``measuring``, ``coverage_map``), and processes that start with all
libraries already imported (``running``). A mutant is a copy of the tree with one changed file, because the tests start
servers and fork: mutmut, which is quicker, decides inside the functions of one process, and leaves out the constants
of a module, where the bounds on memory are.
"""
