"""What flatc makes of wire/schema.fbs, and nothing else. `generate` remakes it; `_wire.py` is its only reader."""
