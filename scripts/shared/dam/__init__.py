"""The client of the DAM (OpenText Media Management).

For others: `client.DamClient`, and `certificate`, which makes a TLS context from a PKCS#12 file (also for
`--check`). Within: `calls` sends and repeats calls, `login` and `session` keep us logged in, `download` opens
files, `lock` locks a campaign, `answers` and `faults` read the answers.
"""
