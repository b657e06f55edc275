"""The verifier's log: asking for it, and finding the cause of a refusal and a way out of it.

`attempt` loads a program with a log, `report` reads the log, and `table` has the causes and hints.
"""
