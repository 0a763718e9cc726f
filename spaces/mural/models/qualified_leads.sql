/*---
name: Qualified leads
description: Each person in the stream of qualified leads, with the newest page that they looked at. What Marketo is told.
primary_key: email
depends_on: [qualified_leads]
---*/
WITH ranked AS (
  SELECT
    email,
    first_name,
    last_name,
    page,
    occurred_at,
    COUNT(*) OVER (PARTITION BY email) AS visits,
    ROW_NUMBER() OVER (PARTITION BY email ORDER BY occurred_at DESC, message_id) AS place
  FROM pulled_sources.qualified_leads
  WHERE email IS NOT NULL
)

SELECT email, first_name, last_name, page, occurred_at, visits
FROM ranked
WHERE place = 1
