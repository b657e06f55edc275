"""Moving what a map counted into a map of another layout, exactly, while packets keep coming."""
