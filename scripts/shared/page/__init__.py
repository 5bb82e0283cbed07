"""The operator's page: what is stuck and why, and the acts of people, in a browser.

`app` puts it together, `access` says who asks and what they may do, `views` and `campaign_views` answer each
path, `drawing`, `shown` and `pictures` say how it looks, `acts` changes campaigns and messages and can take
that back; `campaigns`, `overview`, `records` and `audit` ask the database (their SQL). What a state means is
said by report/ and rules/ alone. Flask is loaded here and nowhere else.
"""
