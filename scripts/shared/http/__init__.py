"""HTTP, for whichever system: `client.Http` on `requests` and urllib3, its `guards` against hostile answers.

`trust` says whom TLS trusts, `proxies` what stands between, `patience` how long to wait for the next try, and
`ahead` makes calls before it is their turn. Knows neither the DAM nor Box.
"""
