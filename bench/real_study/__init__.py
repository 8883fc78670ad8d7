"""What encoders know of real people: patients at monitors, and phones. `python -m bench.real_study -h`."""
