"""The daily report: `figures` asks the database (its SQL), `day` holds what it tells, as values.

An idle run of the uploader loads none of this.
"""
