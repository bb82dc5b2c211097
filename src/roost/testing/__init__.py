"""What tests put in the place of real parts: fakes that keep the promises of what they stand for.

Used by tests and by the simulated fleet. Product code never imports it.
"""
