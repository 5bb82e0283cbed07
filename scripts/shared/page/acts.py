"""What people do on the page: reset, snooze, wake, limit, resend; and how it is taken back.

Each act is one transaction, and the database keeps it under the request's id: the same request once more does
nothing and gets the same answer. An act leaves alone what has changed since the page was drawn.
"""

from __future__ import annotations
