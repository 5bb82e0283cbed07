"""The DAM (OpenText Media Management), and nothing else.

For others: `client.DamClient`. `session` logs in and tells failures apart, `answers` reads what comes back,
and `certificate` makes a TLS context of a PKCS#12 file (also for `--check`).
"""
