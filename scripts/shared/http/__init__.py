"""HTTP/1.1, for whichever system: `wire.Wire`, its guards against hostile answers, and `ahead`, calls made
before it is their turn. Knows neither the DAM nor Box.
"""
