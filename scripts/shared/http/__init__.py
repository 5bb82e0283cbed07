"""The HTTP client for all systems: `client.Http` on `requests` and urllib3, with `guards` against hostile
answers.

`trust` decides whom TLS trusts, `proxies` finds the proxy, `patience` says how long to wait before the next
try, and `ahead` makes calls before they are needed. It knows neither the DAM nor Box.
"""
