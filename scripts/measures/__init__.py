"""What `measure_house.py` measures: the source of a checkout, and commands of it that run."""
