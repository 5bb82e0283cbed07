"""The DAM (OpenText Media Management), and nothing else.

For others: `client.DamClient`, and `certificate`, which makes a TLS context of a PKCS#12 file (also for
`--check`). Within: `calls` sends and tries again, `login` and `session` keep us logged in, `download` opens
files, `lock` holds a campaign, `answers` and `faults` read what comes back.
"""
