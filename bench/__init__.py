"""Measurements of Roost against its targets, each side by side with what it is compared to, in one run.

Started by `./dev bench`, or `python -m bench`. It uses Roost as a user does (the `roost` command, the agent's API) and
looks at guests through their own agents; it imports only `roost.client` and `roost.errors`.
"""
